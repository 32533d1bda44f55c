"""The audit record as a line, and the chain that the lines form.

A line is canonical JSON: fields in the order of `Record`, keys of ``detail`` sorted, no
blanks, UTF-8, ended by one newline::

    {"seq":1,"time":"2026-11-22T17:18:00.123456789Z","actor":"owner","action":"agent.spawn",
     "agent":"3fa9c21e","detail":{"role":"backend"},"prev":"000…0"}

(without the break). ``prev`` is the SHA-256 of the line before, its newline left out, in
hexadecimal; the first line names `GENESIS`. There is exactly one way to write a record, so a
line is checked by decoding it, encoding the result and comparing bytes: a changed blank, a
repeated key or an added field shows even where it means nothing.

What this detects: a changed, dropped, added or swapped line, and a tail cut within a line.
What it can't, without a secret or a copy of the head kept elsewhere: a chain rewritten from
some line to its end, and whole lines cut from the end. The format leaves room for ``mac``,
a last field, for that.

**Torn lines.** A write can stop halfway: the disk is full, the machine dies. The log is
append-only, so the piece stays. The next thing written is `TORN_END`, which ends the piece as
a line that can't be a record, and then an ``audit.repair`` record with the length and the
hash of everything since the last whole record. The verifier accepts torn lines only in front
of the repair that names them, byte for byte. A damaged line that ends otherwise is never
accepted.

Cost: about 3 µs to seal a line of 300 bytes, about as much to verify it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import Struct

from groove_trio.words.audit import AuditEntry
from groove_trio.words.errors import shown

GENESIS = "0" * 64
TORN_END = b"~\n"

AUDIT_OPEN = "audit.open"
AUDIT_CLOSE = "audit.close"
AUDIT_REPAIR = "audit.repair"
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
            "itself, `actor` did for it."
        ),
        GATE_REFUSE: "A process of an agent made a call that no agent may make; it was refused.",
        KNOCK_DENIED: "An agent may not do this operation on this path; `onBehalf` as above.",
        LEASE_DECLARE: "An agent took a lease.",
        LEASE_REFUSE: "An agent was refused a lease.",
        LEASE_COMPLETE: "An agent gave a lease back.",
        LEASE_EXPIRE: "A lease ran out.",
        LEASE_DROP: "A lease of an earlier run could not be taken up again.",
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


class Flaw(NamedTuple):
    """What is wrong, and in which line: lines are counted from 1 over all that was fed."""

    line: int
    problem: str


_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(Record).decode
_BAD_LINE = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)


def digest_of(line: bytes) -> str:
    """The hash by which the next line names this one; `line` without its newline."""
    return hashlib.sha256(line).hexdigest()


def seal(entry: AuditEntry, seq: int, time: str, prev: str) -> tuple[bytes, str]:
    """Writes a record as the next line of the chain.

    Returns:
        The line with its newline, and its digest: the `prev` of the line after it.

    Raises:
        TypeError: ``entry.detail`` holds something that JSON can't say.
    """
    record = Record(
        seq=seq,
        time=time,
        actor=str(entry.actor),
        action=entry.action,
        agent=entry.agent,
        detail=entry.detail,
        prev=prev,
    )
    try:
        line = _encode(record)
    except UnicodeEncodeError:
        # A file name that is not UTF-8 comes as lone surrogates, which JSON can't carry.
        line = _encode(_legible_record(record))
    return line + b"\n", hashlib.sha256(line).hexdigest()


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


class Verifier:
    """Checks lines in order, from the first of the log or from a known place in it.

    Attributes:
        seq: Number of the last good record.
        head: Its digest.
        lines: How many lines were fed.
    """

    def __init__(self, seq: int = 0, head: str = GENESIS) -> None:
        self.seq = seq
        self.head = head
        self.lines = 0
        self._first_torn: Flaw | None = None
        self._torn_bytes = 0
        self._torn_hash = hashlib.sha256()

    def feed(self, line: bytes) -> Flaw | None:
        """Takes one line, its newline included. After a flaw, the verifier is of no more use."""
        self.lines += 1
        if not line.endswith(b"\n"):
            return self._flaw("no newline at the end: the tail is cut")
        try:
            record = open_line(line)
        except ValueError as error:
            if not line.endswith(TORN_END):
                return self._flaw(str(error))
            if self._first_torn is None:
                self._first_torn = Flaw(self.lines, "a torn line without its repair")
            self._torn_bytes += len(line)
            self._torn_hash.update(line)
            return None
        if problem := self._check(record):
            return self._flaw(problem)
        self.seq = record.seq
        self.head = digest_of(line[:-1])
        return None

    def end(self) -> Flaw | None:
        """Tells the verifier that a segment ends here: torn lines must be repaired by now."""
        return self._first_torn

    def _check(self, record: Record) -> str | None:
        if record.seq != self.seq + 1:
            return f"seq is {record.seq} where {self.seq + 1} was due"
        if record.prev != self.head:
            return "prev does not match: this line or the one before it was changed"
        torn = record.detail.get("torn") if record.action == AUDIT_REPAIR else 0
        if torn != self._torn_bytes:
            return f"{self._torn_bytes} torn bytes stand before it, the record tells of {torn!r}"
        if torn:
            if record.detail.get("sha256") != self._torn_hash.hexdigest():
                return "the torn bytes before it are not those the record tells of"
            self._first_torn, self._torn_bytes = None, 0
            self._torn_hash = hashlib.sha256()
        return None

    def _flaw(self, problem: str) -> Flaw:
        return self._first_torn or Flaw(self.lines, problem)


def _legible_record(record: Record) -> Record:
    return Record(
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
