"""The audit record as a line, and the chain that the lines form.

A line is canonical JSON: fields in the order of `Record`, keys of ``detail`` sorted, no
blanks, UTF-8, ended by one newline::

    {"seq":1,"time":"2026-11-22T17:18:00.123456789Z","actor":"owner","action":"agent.spawn",
     "agent":"3fa9c21e","detail":{"role":"backend"},"prev":"5d0c…","mac":"91be…"}

(without the break). ``prev`` is the SHA-256 of the line before, its newline left out, in
hexadecimal; in the first line it is the log's id, 256 random bits. ``mac`` is the keyed
BLAKE2b-256 (RFC 7693) of the line's bytes before ``,"mac":``, under a key that is derived from
the user's seed and the log's id. So anybody can follow the chain, and only who has the seed can
go on with it.

What this detects: a changed, dropped, added or swapped line; a chain written anew from some line
on without the seed; lines of another log. Whole lines cut from the end show by the checkpoint
that is kept outside the log. Two hashes and not one: a chain of macs alone would be half a
microsecond cheaper, and nobody without the seed could check it at all.

**Torn lines.** A write can stop halfway: the disk is full, the machine dies. The log is
append-only, so the piece stays. The next thing written is `TORN_END`, which ends the piece as
a line that can't be a record, and then an ``audit.repair`` record with the length and the
hash of everything since the last whole record. The verifier accepts torn lines only in front
of the repair that names them, byte for byte. A damaged line that ends otherwise is never
accepted.

**Times.** Within one segment they never go back. A clock set back by no more than `CLOCK_SLACK_NS`
is waited out: records keep the time of the one before. Set back further, it is recorded as
``audit.clock``, in front of which a new segment begins.

Cost: about 4 µs to seal a line of 450 bytes, about as much to verify it (``groove_trio/verify.py``,
which also says every check in order).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import msgspec
from msgspec import Struct

from groove_trio.words.audit import AuditEntry
from groove_trio.words.errors import shown

TORN_END = b"~\n"
HASH_BYTES = 32

MAX_LINE = 4 * 2**20
"""No record comes near it: the largest, a lease on 64 paths of 4,096 characters, is under 2 MiB."""

CLOCK_SLACK_NS = 10**9
"""How far a clock may be set back without being told of: what time servers correct by a step."""

AUDIT_OPEN = "audit.open"
AUDIT_CLOSE = "audit.close"
AUDIT_REPAIR = "audit.repair"
AUDIT_ACCEPT = "audit.accept"
AUDIT_CLOCK = "audit.clock"
AUDIT_CHECKPOINT = "audit.checkpoint"
AGENT_SPAWN = "agent.spawn"
AGENT_REFUSE = "agent.refuse"
AGENT_RESTORE = "agent.restore"
AGENT_RENAME = "agent.rename"
AGENT_RELEASE = "agent.release"
KNOCK_GRANTED = "knock.granted"
KNOCK_DENIED = "knock.denied"
GATE_REFUSE = "gate.refuse"
LEASE_DECLARE = "lease.declare"
LEASE_REFUSE = "lease.refuse"
LEASE_COMPLETE = "lease.complete"
LEASE_EXPIRE = "lease.expire"
LEASE_DROP = "lease.drop"
LEASE_MOVE = "lease.move"
CREDENTIAL_FOUND = "credential.found"
CREDENTIAL_REMOVE = "credential.remove"
CREDENTIAL_SET = "credential.set"
CREDENTIAL_USE = "credential.use"
ACCESS_REFUSE = "access.refuse"
UNDO = "undo"

ACTIONS: Mapping[str, str] = MappingProxyType(
    {
        AUDIT_OPEN: "The log was opened by a daemon.",
        AUDIT_CLOSE: "The log was closed in good order; without it, the daemon died.",
        AUDIT_REPAIR: (
            "The log can be written again after a failure or a crash. `torn` and `sha256` are "
            "the length and hash of the unfinished piece before this record; the last `void` "
            "whole records before it belong to a write that failed, so what they say was "
            "refused; the `unsynced` records before them were written, but the disk reported "
            "an error when they were synced."
        ),
        AUDIT_ACCEPT: (
            "The owner accepted a log that is not what its checkpoint knows, for the reason in "
            "`problem`; `expected` and `found` are the log's id, its last record and that one's "
            "hash."
        ),
        AUDIT_CLOCK: "The clock was set back: the record before was written at `before`.",
        AUDIT_CHECKPOINT: (
            "The checkpoint outside the log could not be written, for the reason in `error`, or, "
            "where that is null, can be again. In between, a cut tail may not show."
        ),
        AGENT_SPAWN: "An agent was admitted and its scope reserved.",
        AGENT_REFUSE: "An agent was refused, because its scope overlaps another's.",
        AGENT_RESTORE: "The scope of an agent of an earlier run is held again.",
        AGENT_RENAME: "An agent goes by another name.",
        AGENT_RELEASE: "An agent's scope and leases were given back.",
        "agent.started": (
            "An agent's program runs. `containment` holds it, by this version of `landlock`; "
            "`canary` is what was tried from inside before, and how it failed."
        ),
        "agent.completed": "An agent's program ended well.",
        "agent.failed": "An agent's program failed, or could not be started.",
        "agent.backed-off": "An agent's program failed; it is started again after a wait.",
        "agent.retried": "The wait is over; an agent is started again.",
        "agent.parked": "An agent failed too often and is not started again by itself.",
        "agent.stop": "An agent was asked to stop.",
        "agent.stopped": "An agent stopped, and no process of it lives.",
        "agent.crashed": "The task that tends an agent failed; the agent was ended.",
        "agent.interrupted": "An agent was running when its daemon ended.",
        "agent.restart": "An agent was asked to start anew.",
        "agent.resume": "An interrupted agent was asked to go on.",
        "agent.instruct": "An agent was given a follow-up; its length, not its text.",
        "agent.patch": "An agent's name, restart policy or grace was changed.",
        "agent.remove": "An agent was forgotten.",
        KNOCK_GRANTED: (
            "An agent may do this operation on this path. `onBehalf`: the agent did not ask "
            "itself, `actor` did for it. `again` counts how often the same thread was granted "
            "the same within a second after."
        ),
        GATE_REFUSE: "A process of an agent made a call that no agent may make; it was refused.",
        KNOCK_DENIED: "An agent may not do this operation on this path; `onBehalf` as above.",
        LEASE_DECLARE: "An agent took a lease.",
        LEASE_REFUSE: "An agent was refused a lease.",
        LEASE_COMPLETE: "An agent gave a lease back.",
        LEASE_EXPIRE: "A lease ran out.",
        LEASE_DROP: "A lease of an earlier run could not be taken up again.",
        LEASE_MOVE: (
            "The clock was set, and a lease's times with it: it ends at `until`, after as long "
            "as it was to last."
        ),
        CREDENTIAL_FOUND: (
            "The keys that were stored when the daemon started, each with the time it was sealed. "
            "One that no record accounts for was set, or bound anew, without this daemon. "
            "`problem`: they can't be read."
        ),
        CREDENTIAL_SET: "A provider's key is stored; its name, never its value.",
        CREDENTIAL_REMOVE: "A provider's stored key is removed.",
        CREDENTIAL_USE: (
            "An agent's program is started with the key of its provider, the one that was stored "
            "at `set`, in `variable` of its environment."
        ),
        ACCESS_REFUSE: (
            "A caller was refused: an agent that asked for what is the owner's, or spoke for "
            "another agent; or somebody who is not let in at all. `again` counts what the same "
            "caller was refused within a second after."
        ),
        UNDO: (
            "What record `of` says was taken back: it could not be made durable, or the "
            "caller was gone before the answer."
        ),
    }
)
"""The actions of the parts that record here, each with what it says; the reference lists them."""


class Record(Struct, frozen=True, kw_only=True):
    """One line of the log, decoded. The order of the fields is the order in the line."""

    seq: int
    time: str
    actor: str
    action: str
    agent: str | None
    detail: dict[str, Any]
    prev: str
    mac: str


class _Signed(Struct, frozen=True):
    """What the mac of a line vouches for."""

    seq: int
    time: str
    actor: str
    action: str
    agent: str | None
    detail: dict[str, Any]
    prev: str


_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(Record).decode
_sha256 = hashlib.sha256
_BAD_LINE = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)


def digest_of(line: bytes) -> str:
    """The hash by which the next line names this one; `line` without its newline."""
    return hashlib.sha256(line).hexdigest()


class Seal:
    """Writes records as lines of one log, under its key.

    Args:
        key: 32 bytes, for this log alone.
    """

    def __init__(self, key: bytes) -> None:
        # Copied for each line: half the cost of setting the key up anew.
        self._keyed = hashlib.blake2b(key=key, digest_size=HASH_BYTES)

    def line(self, entry: AuditEntry, seq: int, time: str, prev: str) -> tuple[bytes, str]:
        """Writes one record as the next line of the chain; as `lines`, but takes any size."""
        line = self._written(entry, seq, time, prev)
        return line, digest_of(line[:-1])

    def lines(
        self, entries: Sequence[AuditEntry], seq: int, time: str, prev: str
    ) -> tuple[list[bytes], str]:
        """Writes records as the next lines of the chain; the first gets the number `seq`.

        A record too large to be read back is written with the size and hash of what it would
        have been.

        Returns:
            The lines with their newlines, and the digest of the last: the `prev` of the next.

        Raises:
            TypeError: A detail holds something that JSON can't say.
        """
        written = self._written
        lines: list[bytes] = []
        for entry in entries:
            line = written(entry, seq, time, prev)
            if len(line) > MAX_LINE:
                line = written(_stub(entry, line), seq, time, prev)
            prev = _sha256(line[:-1]).hexdigest()
            lines.append(line)
            seq += 1
        return lines, prev

    def _written(self, entry: AuditEntry, seq: int, time: str, prev: str) -> bytes:
        record = _Signed(seq, time, str(entry.actor), entry.action, entry.agent, entry.detail, prev)
        try:
            signed = _encode(record)[:-1]
        except UnicodeEncodeError:
            # A file name that is not UTF-8 comes as lone surrogates, which JSON can't carry.
            signed = _encode(_legible_record(record))[:-1]
        mac = self._keyed.copy()
        mac.update(signed)
        return b'%b,"mac":"%b"}\n' % (signed, mac.hexdigest().encode())

    def holds(self, line: bytes) -> bool:
        """Whether a line, with or without its newline, was sealed under this key."""
        signed, found, mac = line.rstrip(b"\n").rpartition(b',"mac":"')
        due = self._keyed.copy()
        due.update(signed)
        return bool(found) and hmac.compare_digest(mac, due.hexdigest().encode() + b'"}')


def legible(text: str) -> str:
    r"""A text fit for JSON: a byte that is not UTF-8 is written as ``\udc80`` and the like."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def open_line(line: bytes) -> Record:
    """Decodes one line, with or without its newline, and checks that it is canonical.

    Raises:
        ValueError: It is not a record, or not written the one way; the message says which.
    """
    body = line[:-1] if line.endswith(b"\n") else line
    try:
        record = _decode(body)
        canonical = _encode(record)
    except _BAD_LINE as error:
        raise ValueError(f"not a record: {shown(str(error))}") from error
    if canonical != body:
        raise ValueError("not written in the canonical form")
    return record


def _stub(entry: AuditEntry, line: bytes) -> AuditEntry:
    """What is recorded in place of a detail too large to be read back."""
    detail = {"bytes": len(line), "sha256": digest_of(line)}
    return AuditEntry(actor=entry.actor, action=entry.action, agent=entry.agent, detail=detail)


def _legible_record(record: _Signed) -> _Signed:
    return _Signed(
        seq=record.seq,
        time=record.time,
        actor=legible(record.actor),
        action=legible(record.action),
        agent=None if record.agent is None else legible(record.agent),
        detail=_legible_value(record.detail),
        prev=record.prev,
    )


def _legible_value(value: Any) -> Any:
    match value:
        case str():
            return legible(value)
        case dict():
            members = cast("dict[object, object]", value)
            return {_legible_value(key): _legible_value(item) for key, item in members.items()}
        case list() | tuple():
            return [_legible_value(item) for item in cast("Sequence[object]", value)]
        case _:
            return value
