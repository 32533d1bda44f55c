r"""Bytes of an endless stream into lines of text, within bounded memory.

A line ends at ``\\n``; one ``\\r`` before it is dropped. Bytes that are not UTF-8 become
U+FFFD, as `bytes.decode` with ``errors="replace"`` does it. A line longer than the limit comes
in pieces, each but the last marked partial, cut between characters. How the stream was chopped
into chunks makes no difference to what comes out.

Cost: a chunk that holds many short lines is decoded and split once, at the speed of
`str.split`; `str.splitlines` would also split at U+2028, form feeds and others.
"""

from __future__ import annotations

from itertools import repeat

MAX_LINE = 64 * 1024  # bytes; what one read of a full pipe brings on Linux (pipe(7))
MIN_LINE = 4  # bytes of the longest UTF-8 sequence; a shorter piece could not hold one

Line = tuple[str, bool]
"""The text, and whether the line goes on in the next piece."""


class LineSplitter:
    """Cuts one stream into lines.

    Args:
        max_line: Bytes that a line may have, its end not counted, before it is cut in pieces.

    Raises:
        ValueError: `max_line` is under `MIN_LINE`.
    """

    __slots__ = ("_max", "_pending")

    def __init__(self, max_line: int = MAX_LINE) -> None:
        if max_line < MIN_LINE:
            message = f"max_line must be at least {MIN_LINE}, not {max_line}"
            raise ValueError(message)
        self._max = max_line
        self._pending = bytearray()

    @property
    def held(self) -> int:
        """Bytes of an unended line that are kept back; at most `max_line` + 1."""
        return len(self._pending)

    def feed(self, chunk: bytes | bytearray) -> list[Line]:
        """Takes a chunk; gives the lines and pieces that it completes, as (text, partial)."""
        end = chunk.rfind(b"\n") + 1
        if not end:
            self._pending += chunk
            return self._cut_pending()
        lines = self._split(bytes(self._pending) + chunk[:end])
        self._pending = bytearray(chunk[end:])
        return lines + self._cut_pending()

    def finish(self) -> list[Line]:
        """The end of the stream: what is left, as a line that nothing ended."""
        rest, self._pending = bytes(self._pending), bytearray()
        return self._cut_line(rest) if rest else []

    def _split(self, block: bytes) -> list[Line]:
        """Whole lines; the block ends with a line feed."""
        if len(block) > self._max and max(map(len, block.split(b"\n"))) > self._max:
            return [
                piece
                for line in block[:-1].split(b"\n")
                for piece in self._cut_line(line.removesuffix(b"\r"))
            ]
        # An invalid sequence never swallows a line feed, so decoding may go first.
        texts = block.decode("utf-8", "replace").replace("\r\n", "\n").split("\n")
        texts.pop()
        return list(zip(texts, repeat(False)))

    def _cut_pending(self) -> list[Line]:
        r"""Gives out pieces of an unended line once it must be over the limit.

        That is known two bytes late: one more could be the ``\\r`` before the line's end.
        """
        pieces: list[Line] = []
        start = 0
        while len(self._pending) - start >= self._max + 2:
            cut = self._find_cut(self._pending, start)
            pieces.append((self._pending[start:cut].decode("utf-8", "replace"), True))
            start = cut
        del self._pending[:start]
        return pieces

    def _cut_line(self, line: bytes) -> list[Line]:
        pieces: list[Line] = []
        start = 0
        while len(line) - start > self._max:
            cut = self._find_cut(line, start)
            pieces.append((line[start:cut].decode("utf-8", "replace"), True))
            start = cut
        pieces.append((line[start:].decode("utf-8", "replace"), False))
        return pieces

    def _find_cut(self, data: bytes | bytearray, start: int) -> int:
        """The last place within the limit that does not part a sequence from its first byte."""
        limit = start + self._max
        for cut in range(limit, limit - MIN_LINE, -1):
            if data[cut] & 0xC0 != 0x80:  # noqa: PLR2004  (not a continuation byte)
                return cut
        return limit
