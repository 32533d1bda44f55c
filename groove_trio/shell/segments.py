"""The audit log on disk, read: its segments, their tail, a page of records, the verification.

A log is a directory of files ``00000001.jsonl``, ``00000002.jsonl`` and so on, each a run of
lines; the chain goes through all of them. A segment begins with a whole record, and no segment
but the last ends within a line. Nothing here writes.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
from msgspec import Struct

from groove_trio.rules.chain import GENESIS, TORN_END, Flaw, Verifier, digest_of, open_line
from groove_trio.words.audit import AuditPage, Verification
from groove_trio.words.base import MAX_PAGE
from groove_trio.words.errors import UnsafeState, shown

MAX_LINE = 4 * 2**20
"""No record comes near it: the largest, a lease on 64 paths of 4,096 characters, is under 2 MiB."""

PAGE_BYTES = 2 * 2**20  # of records in one answer
SCAN_BYTES = 32 * 2**20  # read for one answer: about 0.1 s
_WINDOW = 65_536
_NEAR = 65_536  # a binary search ends here; reading on is as cheap
_NAME = re.compile(r"\A[0-9]{8}\.jsonl\Z")
_SEQ = re.compile(rb'\A\{"seq":([0-9]{1,19}),')


class Tail(NamedTuple):
    """Where a log ends: its last whole record, and the bytes of a torn piece after it."""

    seq: int
    head: str
    torn: bytes


class _Head(Struct):
    """The fields that a page is filtered by."""

    action: str
    agent: str | None


_head_of = msgspec.json.Decoder(_Head).decode


def segment_path(directory: Path, number: int) -> Path:
    """The file of segment `number`, from 1."""
    return directory / f"{number:08d}.jsonl"


def list_segments(directory: Path) -> list[Path]:
    """The segments of a log in order; other files in the directory are not looked at."""
    return sorted(path for path in directory.iterdir() if _NAME.match(path.name))


def find_tail(segments: Sequence[Path]) -> Tail:
    """Finds where to go on writing. Reads backwards, as much as it needs.

    Raises:
        UnsafeState: The last whole line is not a record: it was changed by someone else.
    """
    torn = b""
    for path in reversed(segments):
        with _opened(path) as file:
            line, rest = _last_record(path, file)
        torn = rest + torn
        if line:
            return Tail(open_line(line).seq, digest_of(line), torn)
    return Tail(0, GENESIS, torn)


def _last_record(path: Path, file: BinaryIO) -> tuple[bytes, bytes]:
    """The last record's line without its newline (empty if there is none), and all after it."""
    size = file.seek(0, os.SEEK_END)
    window = min(_WINDOW, size)
    while True:
        file.seek(size - window)
        data = file.read(window)
        end = data.rfind(b"\n") + 1
        while end:
            start = data.rfind(b"\n", 0, end - 1) + 1
            line = data[start : end - 1]
            if not start and window < size:
                break  # the line may begin before the window
            if not data.endswith(TORN_END, start, end):
                return _sound(path, line), data[end:]
            end = start
        if window == size:
            return b"", data
        window = min(window * 8, size)


def _sound(path: Path, line: bytes) -> bytes:
    try:
        open_line(line)
    except ValueError as error:
        raise UnsafeState(
            f"The last line of the audit log, in {shown(str(path))}, is damaged: {error}. "
            "`groove-trio audit verify` says more; move the directory away to start a new log.",
            path=str(path),
            reason=str(error),
        ) from error
    return line


def read_page(
    directory: Path, after: int, limit: int, agent: str | None, action: str | None
) -> AuditPage:
    """Records after number `after` that match; blocks for the disk.

    `action` names one action or, before a dot, a family: ``knock`` is also ``knock.denied``.
    At most `limit` records, `PAGE_BYTES` of them and `SCAN_BYTES` looked at: a page may be
    empty and there still be more. ``next`` is where to go on.
    """
    wanted = _Filter(agent, action)
    limit = max(1, min(limit, MAX_PAGE))
    records: list[msgspec.Raw] = []
    seen, scanned, size = max(after, 0), 0, 0
    for line in _lines_after(directory, seen):
        if len(records) == limit or size > PAGE_BYTES or scanned > SCAN_BYTES:
            return AuditPage(records=records, next=seen, more=True)
        scanned += len(line)
        found = _SEQ.match(line)
        if found is None or line.endswith(TORN_END) or int(found[1]) <= seen:
            continue
        if wanted.matches(line):
            records.append(msgspec.Raw(line[:-1]))
            size += len(line)
        seen = int(found[1])
    return AuditPage(records=records, next=seen, more=False)


class _Filter:
    def __init__(self, agent: str | None, action: str | None) -> None:
        self.agent, self.action = agent, action
        # Most lines are ruled out by their bytes alone, ten times as fast as by decoding.
        self.needle = b"" if agent is None else b'"agent":' + msgspec.json.encode(agent)

    def matches(self, line: bytes) -> bool:
        if self.agent is None and self.action is None:
            return True
        if self.needle not in line:
            return False
        try:
            head = _head_of(line)
        except (msgspec.MsgspecError, RecursionError):
            return False
        if self.agent is not None and head.agent != self.agent:
            return False
        action = self.action
        return action is None or head.action == action or head.action.startswith(f"{action}.")


def _lines_after(directory: Path, after: int) -> Iterator[bytes]:
    """All whole lines, beginning not later than with record ``after + 1``."""
    segments = list_segments(directory)
    low, high = 0, len(segments)
    while high - low > 1:
        middle = (low + high) // 2
        first = _first_seq(segments[middle])
        if first is not None and first <= after + 1:
            low = middle
        else:
            high = middle
    for index, path in enumerate(segments[low:]):
        with _opened(path) as file:
            if not index:
                file.seek(_offset_near(file, after))
            for line in file:
                if not line.endswith(b"\n"):
                    break
                yield line


def _first_seq(path: Path) -> int | None:
    with _opened(path) as file:
        found = _next_record(file)
    return None if found is None else found[1]


def _offset_near(file: BinaryIO, after: int) -> int:
    """An offset at the start of a line, before record ``after + 1`` and close to it."""
    low, high = 0, file.seek(0, os.SEEK_END)
    while high - low > _NEAR:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline()
        found = _next_record(file)
        if found is None or found[0] >= high or found[1] > after:
            high = middle
        else:
            low = found[0]
    return low


def _next_record(file: BinaryIO) -> tuple[int, int] | None:
    """Offset and number of the first record from here on."""
    while line := file.readline():
        if (found := _SEQ.match(line)) and not line.endswith(TORN_END):
            return file.tell() - len(line), int(found[1])
    return None


def verify_log(directory: Path) -> Verification:
    """Reads a whole log and checks its chain; needs no daemon and changes nothing.

    Blocks for the disk: about 250,000 records a second. Takes any bytes.

    Raises:
        OSError: A file can't be read.
    """
    verifier = Verifier()
    try:
        segments = list_segments(directory)
    except (FileNotFoundError, NotADirectoryError):
        return _verdict(verifier, None, "there is no audit log here")
    if not segments:
        return _verdict(verifier, None, "there is no segment: the log is empty or was removed")
    for number, path in enumerate(segments, 1):
        if path != segment_path(directory, number):
            return _verdict(verifier, f"{number}:1", f"segment {number} is missing")
        before = verifier.lines
        flaw = _verify_segment(verifier, path)
        if flaw is not None:
            return _verdict(verifier, f"{number}:{flaw.line - before}", flaw.problem)
    return _verdict(verifier, None, None)


def _verify_segment(verifier: Verifier, path: Path) -> Flaw | None:
    try:
        with _opened(path) as file:
            while line := file.readline(MAX_LINE):
                if not line.endswith(b"\n"):
                    line += _rest(file)
                if flaw := verifier.feed(line):
                    return flaw
    except UnsafeState as error:
        return Flaw(verifier.lines + 1, error.detail)
    return verifier.end()


def _rest(file: BinaryIO) -> bytes:
    """The rest of a line that a daemon may be writing just now."""
    for _ in range(5):
        if rest := file.readline(MAX_LINE):
            return rest
        time.sleep(0.005)
    return b""


def _verdict(verifier: Verifier, bad_line: str | None, problem: str | None) -> Verification:
    return Verification(
        ok=problem is None,
        records=verifier.seq,
        head=verifier.head,
        bad_line=bad_line,
        problem=problem,
    )


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
