"""Checks an audit log: one file, standard library only, to be read before it is trusted.

It runs by itself::

    python -I verify.py DIRECTORY [--known FILE] [--seed FILE] [--json]

exits 0 if the log is what was written, 5 if it is not, and names the first bad line. It writes
nothing. The daemon and ``groove-trio audit verify`` run this same code.

**The log** is a directory of files ``00000001.jsonl``, ``00000002.jsonl`` and so on. A line is::

    {"seq":7,"time":…,"actor":…,"action":…,"agent":…,"detail":{…},"prev":"…","mac":"…"}

- ``seq`` counts from 1 through all files.
- ``prev`` is the SHA-256 of the line before, its newline left out. Where there is none before,
  ``prev`` is the log's id: 256 random bits.
- ``mac`` is keyed BLAKE2b-256 (RFC 7693) of the line's bytes before ``,"mac":``. The key is
  HKDF-SHA256 (RFC 5869) of the user's seed, with the log's id as salt and `INFO` as info.

So a line is checked by comparing bytes at its start and its end; the hash and the mac vouch for
all between. Without the seed the macs go unchecked, and a log that somebody wrote anew from some
line on, hashes included, can't be told from the true one.

**The checkpoint** is a file kept away from the log, ``{"log":…,"seq":…,"head":…}``: the hash of a
line that was on disk. A log that ends before it was cut or put back from an older copy. What
``groove-trio audit key`` prints is such a file with the log's key in it, ``"key":…``, in place of
the seed, which opens more than this log.

**Torn lines.** A write can stop halfway, and the log is only appended to. The piece is then ended
by ``~`` and a newline, and an ``audit.repair`` record gives length and hash of everything since
the last whole record. Such a line is good in front of the repair that names it, nowhere else.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import os
import re
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, NamedTuple

INFO = b"groove-trio audit log v1"
SEED_BYTES = 32
HASH_BYTES = 32
TORN_END = b"~\n"
DIFFERS = 5  # exit code: the log is not what was written

MAX_LINE = 4 * 2**20
"""No record comes near it: the largest, a lease on 64 paths of 4,096 characters, is under 2 MiB."""

MAX_CHECKPOINT = 64 * 2**10
"""Bytes of a checkpoint file: many times what two hashes and the longest path take."""

_HASH = re.compile(r"[0-9a-f]{64}")
_SEGMENT = re.compile(r"[0-9]{8}\.jsonl", re.ASCII)
_BUFFER = 2**18
_MAC_TAIL = len(b',"mac":"' + b"0" * 2 * HASH_BYTES + b'"}\n')
_PREV_TAIL = len(b',"prev":"' + b"0" * 2 * HASH_BYTES + b'"')
_MAC = 2 * HASH_BYTES + 3  # where the mac itself begins, from the line's end
_OWN = b'"action":"audit.'  # records of the log about itself
_FIELDS = ["seq", "time", "actor", "action", "agent", "detail", "prev", "mac"]
_sha256 = hashlib.sha256
_NO_JSON = (ValueError, RecursionError)  # what `json.loads` says to what is no JSON


class Checkpoint(NamedTuple):
    """What is known of a log: record `seq` of log `log` has the hash `head`; maybe its key."""

    log: str
    seq: int
    head: str
    key: str = ""


@dataclass
class Found:
    """What was found."""

    ok: bool
    records: int  # how many good ones stand before the first bad line
    head: str  # the hash of the last of them
    log: str  # the log's id; empty if there is no record
    keyed: bool  # whether the macs were checked
    checkpoint: int | None  # number of the record that it knows; None without one
    accepted: list[int]  # numbers of the records by which the owner accepted a loss
    bad_line: str  # "<segment>:<line>", both from 1, or empty
    problem: str  # what is wrong with it, or empty


class Flaw(Exception):
    """A line is bad; `place` is ``<segment>:<line>``."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(problem)
        self.place = place
        self.problem = problem


def derive_key(seed: bytes, log: str) -> bytes:
    """The key of one log's macs: HKDF-SHA256 (RFC 5869), one block of it."""
    extracted = hmac.digest(bytes.fromhex(log), seed, "sha256")
    return hmac.digest(extracted, INFO + b"\x01", "sha256")


class Chain:
    """Takes the lines of a log in their order, and raises `Flaw` at the first bad one.

    Args:
        seed: The user's seed; without it the macs are not checked.
        checkpoint: What is known of the log from elsewhere.
    """

    def __init__(self, seed: bytes | None = None, checkpoint: Checkpoint | None = None) -> None:
        self.log = ""
        self.seq = 0
        self.head = b""
        self.accepted: list[int] = []
        self._seed = seed
        self._known = checkpoint
        self._keyed: hashlib.blake2b | None = None
        self._known_seq = 0 if checkpoint is None else checkpoint.seq
        self._segment = self._line = 0
        self._torn_at = ""
        self._torn_bytes = 0
        self._torn_hash = hashlib.sha256()

    def feed(self, segment: int, lines: Iterable[bytes]) -> None:
        """Takes the lines of a segment, their newlines included."""
        self._segment, self._line = segment, 0
        line = b""
        for line in lines:
            self._line += 1
            if not self.seq:
                self._look_for_log(line)
            due = self.seq + 1
            if self._keyed is None:
                mac = line[-_MAC:-3]
            else:
                keyed = self._keyed.copy()
                keyed.update(line[:-_MAC_TAIL])
                mac = keyed.hexdigest().encode()
            # No need to hide how long this takes: who may ask it may read the log.
            if line.endswith(b',"prev":"%b","mac":"%b"}\n' % (self.head, mac)) and line.startswith(
                b'{"seq":%d,' % due
            ):
                if _OWN in line or self._torn_at:
                    self._heed(line)
                self.seq = due
                self.head = _sha256(line[:-1]).hexdigest().encode()
                if due == self._known_seq:
                    self._compare()
            else:
                self._refuse(line)
        if self._torn_at:
            raise Flaw(self._torn_at, "a torn line without its repair")
        if problem := line and _record(line)[1]:
            raise Flaw(self.place, problem)  # shows only here where there is no mac to vouch

    def _compare(self) -> None:
        if self._known is not None and self._known.head != self.head.decode():
            raise Flaw(self.place, "the checkpoint knows another line by this number")

    @property
    def place(self) -> str:
        """Where the line fed last stands."""
        return f"{self._segment}:{self._line}"

    def end(self) -> None:
        """The log ends here."""
        known = self._known
        if known is None or self.seq >= known.seq:
            return
        problem = (
            f"the log ends with record {self.seq}, the checkpoint knows record {known.seq}: "
            "its end was cut, or an older copy was put in its place"
        )
        raise Flaw(f"{max(self._segment, 1)}:{self._line + 1}", problem)

    def _look_for_log(self, line: bytes) -> None:
        """The first record names the log, and so the key."""
        self.log, self._keyed = "", None
        prev = line[:-_MAC_TAIL][-_PREV_TAIL:]
        named = prev.removeprefix(b',"prev":"').removesuffix(b'"').decode("latin-1")
        if not line.startswith(b'{"seq":1,') or not _is_hash(named):
            return
        if self._known is not None and self._known.log != named:
            raise Flaw(self.place, "it is another log than the one that the checkpoint knows")
        self.log, self.head = named, named.encode()
        key = bytes.fromhex(self._known.key) if self._known is not None else b""
        if not key and self._seed is not None:
            key = derive_key(self._seed, named)
        self._keyed = hashlib.blake2b(key=key, digest_size=HASH_BYTES) if key else None

    def _heed(self, line: bytes) -> None:
        """A record of the log about itself, or the first after torn lines."""
        record, problem = _record(line)
        if problem:
            raise Flaw(self._torn_at or self.place, problem)
        told: dict[str, Any] = record["detail"] if record["action"] == "audit.repair" else {}
        torn = told.get("torn", 0)
        if torn != self._torn_bytes:
            problem = f"{self._torn_bytes} torn bytes stand before it, the record tells of {torn!r}"
        elif torn and told.get("sha256") != self._torn_hash.hexdigest():
            problem = "the torn bytes before it are not those the record tells of"
        if problem:
            raise Flaw(self._torn_at or self.place, problem)
        self._torn_at, self._torn_bytes, self._torn_hash = "", 0, hashlib.sha256()
        if record["action"] == "audit.accept":
            self.accepted.append(self.seq + 1)

    def _refuse(self, line: bytes) -> None:
        """Says why a line is bad, or keeps it as torn."""
        record, broken = _record(line)
        due, problem = self.seq + 1, "not written in the canonical form"
        if not line.endswith(b"\n"):
            problem = "no newline at the end: the tail is cut"
        elif broken and line.endswith(TORN_END):
            self._torn_at = self._torn_at or self.place
            self._torn_bytes += len(line)
            self._torn_hash.update(line)
            return
        elif broken:
            problem = broken
        elif record["seq"] != due:
            problem = f"seq is {record['seq']!r} where {due} was due"
        elif record["prev"] != self.head.decode():
            problem = "prev does not match: this line or the one before it was changed"
        elif self._keyed is not None:
            problem = "mac does not match: the line was changed, or sealed with another seed"
        raise Flaw(self._torn_at or self.place, problem)


def _record(line: bytes) -> tuple[dict[str, Any], str]:
    """A line decoded, and what is wrong with that."""
    try:
        record = json.loads(line)
    except _NO_JSON as error:
        return {}, f"not a record: {str(error)[:80]!r}"
    if not isinstance(record, dict) or list(record) != _FIELDS:  # pyright: ignore[reportUnknownArgumentType]
        return {}, "not a record: the fields are not those of one"
    if not isinstance(record["detail"], dict):
        return {}, "not a record: the detail is not an object"
    return record, ""  # pyright: ignore[reportUnknownVariableType]


def _is_hash(text: object) -> bool:
    return (
        isinstance(text, str)
        and len(text) == 2 * HASH_BYTES
        and set(text) <= set("0123456789abcdef")
    )


# Files


def segments_of(directory: str | os.PathLike[str]) -> list[str]:
    """The names of the segments, in order; other files are not looked at."""
    return sorted(name for name in os.listdir(directory) if _SEGMENT.fullmatch(name))


def lines_of(path: str) -> Iterator[bytes]:
    """The lines of a segment, waiting a little for the end of one that is being written.

    Raises:
        OSError: It can't be read, is no regular file, or is a symbolic link.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", _BUFFER) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is not a regular file")
        while line := file.readline(MAX_LINE):
            yield line if line.endswith(b"\n") else line + _rest(file)


def _rest(file: BinaryIO) -> bytes:
    for _ in range(5):
        if rest := file.readline(MAX_LINE):
            return rest
        time.sleep(0.005)
    return b""


def verify(
    directory: str | os.PathLike[str],
    seed: bytes | None = None,
    checkpoint: Checkpoint | None = None,
) -> Found:
    """Checks the log in a directory; blocks for the disk. Takes any bytes.

    Read the checkpoint before the call: a daemon that writes meanwhile is then no harm.
    """
    chain = Chain(seed, checkpoint)
    bad, problem = "", ""
    try:
        _feed_all(chain, os.fspath(directory))
    except Flaw as flaw:
        bad, problem = flaw.place, flaw.problem
    return Found(
        ok=not problem,
        records=chain.seq,
        head=chain.head.decode("latin-1"),
        log=chain.log,
        keyed=seed is not None or bool(checkpoint and checkpoint.key),
        checkpoint=None if checkpoint is None else checkpoint.seq,
        accepted=chain.accepted,
        bad_line=bad,
        problem=problem,
    )


def _feed_all(chain: Chain, directory: str) -> None:
    try:
        names = segments_of(directory)
    except (FileNotFoundError, NotADirectoryError):
        raise Flaw("1:1", "there is no audit log here") from None
    except OSError as error:
        raise Flaw("1:1", f"the log can't be read: {error}") from error
    if not names:
        raise Flaw("1:1", "there is no segment: the log is empty or was removed")
    for number, name in enumerate(names, 1):
        if name != f"{number:08d}.jsonl":
            raise Flaw(f"{number}:1", f"segment {number} is missing")
        try:
            chain.feed(number, lines_of(os.path.join(directory, name)))
        except OSError as error:
            raise Flaw(f"{number}:1", f"the segment can't be read: {error}") from error
    chain.end()


def checkpoint_from(data: bytes) -> Checkpoint:
    """Decodes a checkpoint.

    Raises:
        ValueError: It is not one.
    """
    try:
        known = json.loads(data)
        log, seq, head, key = known["log"], known["seq"], known["head"], known.get("key", "")
        if all(map(_is_hash, (log, head, key or log))) and isinstance(seq, int) and seq >= 0:
            return Checkpoint(log, seq, head, key)
    except (*_NO_JSON, KeyError, TypeError, AttributeError) as error:
        raise ValueError("not a checkpoint") from error
    raise ValueError("not a checkpoint")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Checks an audit log.")
    parser.add_argument("directory", help="the one that holds 00000001.jsonl")
    parser.add_argument("--known", metavar="FILE", help="a checkpoint, or a printed key")
    parser.add_argument("--seed", metavar="FILE", help=f"the user's seed, {SEED_BYTES} bytes")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    asked = parser.parse_args(argv)
    try:
        known = asked.known and checkpoint_from(_read(asked.known))
        seed = asked.seed and _read(asked.seed)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if seed and len(seed) != SEED_BYTES:
        parser.error(f"{asked.seed} is not a seed of {SEED_BYTES} bytes")
    found = verify(asked.directory, seed, known)
    sys.stdout.write((json.dumps(asdict(found)) if asked.json else told(found)) + "\n")
    return 0 if found.ok else DIFFERS


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(MAX_CHECKPOINT)


def told(found: Found) -> str:
    """What was found, in words."""
    lines = [f"The audit log is whole: {found.records} records", f"head: {found.head}"]
    if not found.ok:
        lines = [
            f"The audit log is NOT what was written: {ascii(found.problem)[1:-1]}",
            f"first bad line: {found.bad_line}",
            f"good before it: {found.records}",
        ]
    if found.accepted:
        lines.append(f"losses were accepted in records {found.accepted}")
    if not found.keyed:
        lines.append("without the seed: a log written anew from some line on would not show")
    if found.checkpoint is None:
        lines.append("without a checkpoint: whole lines cut from the end would not show")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
