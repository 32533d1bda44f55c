"""What an agent wrote: one file of numbered lines, and pages of it by number.

A line of the file is one `OutputLine` in JSON, ``{"seq":1,"time":"…","stream":"out","text":"…"}``.
Numbers count from 1 without gaps, over all runs of the agent and all runs of the daemon, so a
page is found by bisection over the file's bytes and the end of the file tells the next number.

Nothing is lost on the way: a caller of `append` waits for its own write, so a slow disk slows
the pump, the pipe fills, and the agent waits. A full disk is a very slow one: the write is
tried again until there is room. The file isn't synced at each write: what a power cut may take
is the tail, and the tail is repaired when the log is opened. No descriptor is held between
writes, because a thousand agents would need a thousand.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
import trio

from groove_trio.shell.files import PRIVATE_FILE, fix_mode
from groove_trio.words.clock import rfc3339
from groove_trio.words.output import OutputLine, OutputPage, Stream

MAX_PAGE_BYTES = 1 << 20
"""What a page takes of the file, one line more at most: as much as a request body may have."""

RETRY_S = 0.5
"""Between two tries to write to a full or failing disk."""

_STEP = 65_536  # read size; the usual line is far shorter, the longest a few times that

_MAX_TAIL = 1 << 22  # ten times the longest line, 64 KiB of text with each byte escaped

_log = logging.getLogger("groove_trio")
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(OutputLine)


def _decode(line: bytes) -> OutputLine | None:
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class OutputLog:
    """The output of one agent; any number of tasks may append and read.

    Args:
        path: The file, which need not exist.
        last_seq: Number of the last line in it, as `repair` tells.
        clock: Nanoseconds since the epoch.
        give_up: Whether to wait no longer for a disk that refuses: the daemon must end.
    """

    __slots__ = ("_clock", "_give_up", "_lock", "_whole", "last_seq", "path")

    def __init__(
        self,
        path: Path,
        last_seq: int = 0,
        *,
        clock: Callable[[], int] = time.time_ns,
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        self.path = path
        self.last_seq = last_seq
        self._clock = clock
        self._give_up = give_up
        self._lock = trio.Lock()
        self._whole = _Whole()

    async def append(self, stream: Stream, texts: Sequence[tuple[str, bool]]) -> list[OutputLine]:
        """Numbers lines and writes them with one call; returns when the kernel has them.

        Cancelling it before the write loses the lines; a write once begun is finished. While
        the disk is full or fails it tries again every `RETRY_S` seconds.

        Args:
            stream: Where the agent wrote them.
            texts: Each line's text and whether it is only a piece of a longer line.

        Returns:
            The lines; none if it had to give up on them.
        """
        async with self._lock:
            stamp = rfc3339(self._clock())
            lines = [
                OutputLine(seq=seq, time=stamp, stream=stream, text=text, partial=partial)
                for seq, (text, partial) in enumerate(texts, self.last_seq + 1)
            ]
            if lines and not await self._write(lines):
                return []
            self.last_seq += len(lines)
            return lines

    async def _write(self, lines: list[OutputLine]) -> bool:
        failing = False
        data = _encoder.encode_lines(lines)
        while True:
            try:
                await trio.to_thread.run_sync(_append, self.path, data, self._whole)
            except OSError as error:
                if self._give_up():
                    _log.error("%d lines are lost, %s: %s", len(lines), self.path, error)
                    return False
                if not failing:
                    _log.warning("output waits, %s can't be written: %s", self.path, error)
                failing = True
            else:
                return True
            await trio.sleep(RETRY_S)

    async def read(self, after: int, limit: int) -> OutputPage:
        """The lines that follow number `after`, at most `limit` and about `MAX_PAGE_BYTES`.

        A negative `after` counts from the end: ``-10`` begins ten lines before it.
        """
        if after < 0:
            after = max(0, self.last_seq + after)
        if after >= self.last_seq:
            await trio.lowlevel.checkpoint()
            return OutputPage(lines=[], next=after, more=False)
        lines = await trio.to_thread.run_sync(_read, self.path, after, limit)
        end = lines[-1].seq if lines else after
        return OutputPage(lines=lines, next=end, more=bool(lines) and end < self.last_seq)


class _Whole:
    """How much of the file is whole lines, while a write has failed and may have left a piece."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size: int | None = None


def _append(path: Path, data: bytes, whole: _Whole) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(path, flags, PRIVATE_FILE)
    try:
        size = os.fstat(file).st_size
        before = size if whole.size is None else min(whole.size, size)
        if size > before:  # an earlier try left it, on a disk that did not let it be cut
            os.ftruncate(file, before)
        whole.size = before
        if not before:
            fix_mode(file, PRIVATE_FILE)
        try:
            written = os.write(file, data)
            while written < len(data):
                written += os.write(file, data[written:])
        except OSError:
            os.ftruncate(file, before)  # half a batch would be numbered twice
            raise
        whole.size = None
    finally:
        os.close(file)


# Reading


def _read(path: Path, after: int, limit: int) -> list[OutputLine]:
    try:
        file = path.open("rb", buffering=_STEP)
    except FileNotFoundError:
        return []
    with file:
        file.seek(_offset(file, after))
        lines: list[OutputLine] = []
        size = 0
        while len(lines) < limit and size < MAX_PAGE_BYTES:
            raw = file.readline()
            if not raw.endswith(b"\n"):  # the end, or a write under way
                break
            line = _decode(raw)
            if line is not None and line.seq > after:
                lines.append(line)
                size += len(raw)
        return lines


def _offset(file: BinaryIO, after: int) -> int:
    """The start of a line that is not behind the first one numbered above `after`.

    Bisects over byte offsets. Only `low` carries the promise, `high` just ends the search, and
    a reader that goes on from `low` finds the line within some `_STEP` bytes.
    """
    low, high = 0, os.fstat(file.fileno()).st_size
    while high - low > _STEP:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline()  # to the next line's start
        start, line = _next_line(file)
        if line is None or start >= high or line.seq > after:
            high = middle
        else:
            low = start
    return low


def _next_line(file: BinaryIO) -> tuple[int, OutputLine | None]:
    """The next line that can be read, and where it starts; None at the end."""
    while True:
        start = file.tell()
        raw = file.readline()
        if not raw.endswith(b"\n"):
            return start, None
        line = _decode(raw)
        if line is not None:
            return start, line


# After a crash


def repair(path: Path) -> int:
    """Makes the end of a log whole again and returns the number of its last line, or 0.

    A last line without its newline is completed if it is all there, else cut off: it was never
    told to anyone. A file in whose last `_MAX_TAIL` bytes there is no line at all is no log; it
    is set aside as ``*.bad`` and the log begins anew.

    Raises:
        OSError: The file can't be read or written.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        size = os.fstat(file).st_size
        last, end, tail = 0, 0, b""
        for window in (_STEP, _MAX_TAIL):
            tail = os.pread(file, window, max(0, size - window))
            last, end = _last_line(tail)
            if last or window >= size:
                break
        rest = tail[end:]
        torn = _decode(rest)
        if torn is not None and torn.seq == last + 1:
            os.pwrite(file, b"\n", size)
            return torn.seq
        if last or b"\n" not in rest:
            os.ftruncate(file, size - len(rest))
            return last
    finally:
        os.close(file)
    path.rename(path.with_name(path.name + ".bad"))
    _log.warning("%s holds no line of output; set aside", path)
    return 0


def _last_line(data: bytes) -> tuple[int, int]:
    """The number of the last line that can be read, and where it ends; zeros if there is none."""
    end = data.rfind(b"\n") + 1
    while end:
        begin = data.rfind(b"\n", 0, end - 1) + 1
        line = _decode(data[begin:end])
        if line is not None:
            return line.seq, end
        end = begin
    return 0, 0
