"""The audit log on disk, read: its segments, their tail, one record, a page of records.

A log is a directory of files ``00000001.jsonl``, ``00000002.jsonl`` and so on, each a run of
lines; the chain goes through all of them. A segment begins with a whole record, and no segment
but the last ends within a line. Within a segment, numbers and times only grow, so a place in it
is found by bisection: a page from the end of a log takes a few reads, however long the log is.
Nothing here writes.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
from msgspec import Struct

from groove_trio.rules.chain import TORN_END, Record, Seal, digest_of, open_line
from groove_trio.words.audit import AuditFilter, AuditPage
from groove_trio.words.base import MAX_PAGE
from groove_trio.words.errors import UnsafeState, shown

PAGE_BYTES = 2 * 2**20
"""Of records in one answer: a thousand of 2 KiB."""

SCAN_BYTES = 32 * 2**20
"""Read for one answer: about 0.1 s."""

_WINDOW = 65_536
_NEAR = 8_192  # a bisection ends here; reading on is as cheap
_NAME = re.compile(r"\A[0-9]{8}\.jsonl\Z")
_START = re.compile(rb'\A\{"seq":([0-9]{1,19}),"time":"([^"]{1,40})"')


class Tail(NamedTuple):
    """Where a log ends: its last whole record, and the bytes of a torn piece after it."""

    seq: int
    head: str
    time: str
    torn: bytes


class _At(NamedTuple):
    """Where a record stands in its segment, and what it begins with."""

    offset: int
    seq: int
    time: bytes


class _Head(Struct):
    """The fields that a page is filtered by."""

    actor: str
    action: str
    agent: str | None


_encode = msgspec.json.Encoder().encode
_head_of = msgspec.json.Decoder(_Head).decode


def segment_path(directory: Path, number: int) -> Path:
    """The file of segment `number`, from 1."""
    return directory / f"{number:08d}.jsonl"


def list_segments(directory: Path) -> list[Path]:
    """The segments of a log in order; other files in the directory are not looked at."""
    return sorted(path for path in directory.iterdir() if _NAME.match(path.name))


def check_gaps(segments: Sequence[Path]) -> None:
    """Checks that no segment is missing.

    Raises:
        UnsafeState: One is; what comes next would stand in a log that can't be verified.
    """
    for number, path in enumerate(segments, 1):
        if int(path.stem) != number:
            raise UnsafeState(
                f"Segment {number} of the audit log in {shown(str(path.parent))} is missing. "
                "Put it back, or move the directory away to start a new log.",
                path=str(segment_path(path.parent, number)),
                reason="it is missing",
            )


def log_of(segments: Sequence[Path]) -> str | None:
    """The id of a log: what its first record names in place of one before; None without one.

    Raises:
        UnsafeState: The first line is not a record.
    """
    for path in segments:
        with _opened(path) as file:
            if found := _next_record(file):
                file.seek(found.offset)
                return _sound(path, file.readline()[:-1]).prev
    return None


def find_tail(segments: Sequence[Path], seal: Seal | None) -> Tail:
    """Finds where to go on writing. Reads backwards, as much as it needs.

    Args:
        segments: All of them.
        seal: The last record must be sealed under its key.

    Raises:
        UnsafeState: The last whole line is not a record, or not ours: somebody changed it.
    """
    torn = b""
    for path in reversed(segments):
        with _opened(path) as file:
            line, rest = _last_record(file)
        torn = rest + torn
        if line is not None:
            record = _sound(path, line, seal)
            return Tail(record.seq, digest_of(line), record.time, torn)
    return Tail(0, "", "", torn)


def find_line(directory: Path, seq: int) -> bytes | None:
    """The line of one record, its newline left out; None if there is none of that number."""
    for line in _lines_after(directory, AuditFilter(), seq - 1):
        found = _START.match(line)
        if found and not line.endswith(TORN_END) and int(found[1]) >= seq:
            return line[:-1] if int(found[1]) == seq else None
    return None


def _last_record(file: BinaryIO) -> tuple[bytes | None, bytes]:
    """The last whole line without its newline, torn ones passed over, and all after it."""
    size = file.seek(0, os.SEEK_END)
    window = min(_WINDOW, size)
    while True:
        file.seek(size - window)
        data = file.read(window)
        end = data.rfind(b"\n") + 1
        while end:
            start = data.rfind(b"\n", 0, end - 1) + 1
            if not start and window < size:
                break  # the line may begin before the window
            if not data.endswith(TORN_END, start, end):
                return data[start : end - 1], data[end:]
            end = start
        if window == size:
            return None, data
        window = min(window * 8, size)


def _sound(path: Path, line: bytes, seal: Seal | None = None) -> Record:
    reason = "it was not sealed with this user's seed"
    try:
        record = open_line(line)
        if seal is None or seal.holds(line):
            return record
    except ValueError as error:
        reason = str(error)
    raise UnsafeState(
        f"The audit log, in {shown(str(path))}, can't be continued: {reason}. It was changed, "
        "or written by an earlier version or another user. `groove-trio audit verify` says "
        "more; move the directory away to start a new log.",
        path=str(path),
        reason=reason,
    )


def read_page(directory: Path, wanted: AuditFilter, after: int, limit: int) -> AuditPage:
    """Records after number `after` that match; blocks for the disk.

    At most `limit` records, `PAGE_BYTES` of them and `SCAN_BYTES` looked at: a page may be
    empty and there still be more. ``next`` is where to go on.
    """
    matches = _matcher(wanted)
    limit = max(1, min(limit, MAX_PAGE))
    records: list[msgspec.Raw] = []
    seen, scanned, size = max(after, 0), 0, 0
    for line in _lines_after(directory, wanted, seen):
        if len(records) == limit or size > PAGE_BYTES or scanned > SCAN_BYTES:
            return AuditPage(records=records, next=seen, more=True)
        scanned += len(line)
        found = _START.match(line)
        if found is None or line.endswith(TORN_END) or int(found[1]) <= seen:
            continue
        if matches(line, found[2]):
            records.append(msgspec.Raw(line[:-1]))
            size += len(line)
        seen = int(found[1])
    return AuditPage(records=records, next=seen, more=False)


def _matcher(wanted: AuditFilter) -> Callable[[bytes, bytes], bool]:
    """Whether a line and its time match; bytes are looked for before anything is decoded."""
    needles = [
        b'"%b":%b' % (name, _encode(text).removesuffix(b'"' if open_ended else b""))
        for name, text, open_ended in (
            (b"agent", wanted.agent, False),
            (b"action", wanted.action, True),
            (b"actor", wanted.actor, True),
        )
        if text
    ]
    since, until = wanted.since.encode(), wanted.until.encode() or b"~"

    def matches(line: bytes, time: bytes) -> bool:
        if not since <= time < until:
            return False
        for needle in needles:
            if needle not in line:
                return False
        return not needles or _fits(wanted, line)

    return matches


def _fits(wanted: AuditFilter, line: bytes) -> bool:
    try:
        head = _head_of(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return (
        wanted.agent in {"", head.agent}
        and _of_family(head.action, wanted.action, ".")
        and _of_family(head.actor, wanted.actor, ":")
    )


def _of_family(name: str, wanted: str, mark: str) -> bool:
    return not wanted or name == wanted or name.startswith(wanted + mark)


def _lines_after(directory: Path, wanted: AuditFilter, after: int) -> Iterator[bytes]:
    """Whole lines, all that can match after record `after` among them.

    Of what is passed over, the last record is among them too: so is told how far one has looked.
    """
    since, until = wanted.since.encode(), wanted.until.encode() or b"~"
    for path in _segments_after(directory, after):
        with _opened(path) as file:
            last = _last_record(file)[0] or b""
            told = _START.match(last)
            if told and told[2] < since:
                yield last + b"\n"
                continue
            file.seek(_offset_near(file, after, since))
            for line in file:
                if not line.endswith(b"\n"):
                    break
                yield line
                found = _START.match(line)
                if found and found[2] >= until and not line.endswith(TORN_END):
                    yield last + b"\n"
                    break


def _segments_after(directory: Path, after: int) -> list[Path]:
    """The segments from the one on that record ``after + 1`` stands in."""
    segments = list_segments(directory)
    low, high = 0, len(segments)
    middle = high - 1  # the last is asked for most
    while high - low > 1:
        first = _first_seq(segments[middle])
        if first is not None and first <= after + 1:
            low = middle
        else:
            high = middle
        middle = (low + high) // 2
    return segments[low:]


def _first_seq(path: Path) -> int | None:
    with _opened(path) as file:
        found = _next_record(file)
    return None if found is None else found.seq


def _offset_near(file: BinaryIO, after: int, since: bytes) -> int:
    """An offset at the start of a line, before what is looked for and close to it."""
    low, high = 0, file.seek(0, os.SEEK_END)
    while high - low > _NEAR:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline()
        found = _next_record(file)
        if found is None or found.offset >= high or (found.seq > after and found.time >= since):
            high = middle
        else:
            low = found.offset
    return low


def _next_record(file: BinaryIO) -> _At | None:
    """The first whole record from here on."""
    while (line := file.readline()).endswith(b"\n"):
        if (found := _START.match(line)) and not line.endswith(TORN_END):
            return _At(file.tell() - len(line), int(found[1]), found[2])
    return None


@contextmanager
def _opened(path: Path) -> Generator[BinaryIO]:
    """A segment for reading: a regular file and nothing else, whoever owns it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise UnsafeState(
                f"{shown(str(path))} is a symbolic link, not a segment of the log."
            ) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnsafeState(f"{shown(str(path))} is not a regular file.")
    with os.fdopen(descriptor, "rb") as file:
        yield file
