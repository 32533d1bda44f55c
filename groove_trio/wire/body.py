"""The body of an HTTP message when its length is not known beforehand, within bounds.

h11 reads chunk extensions of any kind, and folded lines and bare LFs in trailers; a decoder
of a hundred lines that refuses them is simpler than a filter in front of one that does not.
What a chunk extension or a trailer says is checked for form, counted, and dropped (RFC 9112,
sections 7.1.1 and 7.1.2 leave that to the recipient).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from groove_trio.words.errors import BadRequest, HeadersTooLarge, PayloadTooLarge, shown

MAX_CHUNK_LINE = 256  # a size has 16 digits; Go's net/http takes 4096 with extensions
MAX_CHUNK_SPARE = 16 * 1024  # extension bytes in one body, as Go's net/http and hyper bound it
MAX_CHUNKS = 16_384  # in one body: 1 MiB in chunks of 64 bytes; each costs time however small
MAX_TRAILER = 8190  # bytes of all trailer lines; as one header line
_LINE_ALLOWED = 16  # bytes of a chunk line that are not counted as spare; Go's net/http

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[^\x00-\x08\x0a-\x1f\x7f]*+)?")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[^\x00-\x08\x0a-\x1f\x7f]*+")


class ChunkedBody:
    """Decodes the chunked coding, strictly.

    Attributes:
        body: What has come of it so far.
    """

    __slots__ = (
        "_chunks",
        "_left",
        "_limit",
        "_line",
        "_size",
        "_spare",
        "_step",
        "_trailer",
        "body",
    )

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.body = bytearray()  # no list of pieces: one of 2 bytes takes 43
        self._size = 0
        self._left = 0  # bytes of the current chunk still to come
        self._line = b""  # an unfinished line
        self._spare = 0
        self._chunks = 0
        self._trailer = 0
        self._step: Step = ChunkedBody._take_size

    def take(self, data: bytes) -> bytes | None:
        """Takes what came; gives back what follows the body, or None while it goes on.

        Raises:
            GrooveError: 400, 413 or 431.
        """
        data, self._line = self._line + data, b""
        position: int | None = 0
        while position is not None:
            if self._step is ChunkedBody._take_trailer and data.startswith(b"\r\n", position):
                return data[position + 2 :]
            position = self._step(self, data, position)
        return None

    def _take_size(self, data: bytes, position: int) -> int | None:
        line = self._next_line(data, position)
        if line is None:
            return None
        match = _SIZE.fullmatch(line)
        if match is None:
            raise BadRequest(f"The chunk size {_show(line)} is not a hexadecimal number.")
        self._left = int(match[1], 16)
        self._spare += max(0, len(line) - _LINE_ALLOWED)
        self._chunks += 1
        if self._chunks > MAX_CHUNKS:
            raise BadRequest(f"A body may have {MAX_CHUNKS} chunks.", limit=MAX_CHUNKS)
        if self._spare > MAX_CHUNK_SPARE:
            raise BadRequest(f"Chunk extensions are limited to {MAX_CHUNK_SPARE} bytes.")
        self._size += self._left
        if self._size > self._limit:
            detail = f"The body is limited to {self._limit} bytes."
            raise PayloadTooLarge(detail, limit=self._limit)
        self._step = ChunkedBody._take_data if self._left else ChunkedBody._take_trailer
        return position + len(line) + 2

    def _take_data(self, data: bytes, position: int) -> int | None:
        piece = data[position : position + self._left]
        self.body += piece
        self._left -= len(piece)
        if self._left:
            return None
        self._step = ChunkedBody._take_end
        return position + len(piece)

    def _take_end(self, data: bytes, position: int) -> int | None:
        end = data[position : position + 2]
        if not b"\r\n".startswith(end):
            raise BadRequest("A chunk does not end where its size says.")
        if len(end) < 2:  # noqa: PLR2004
            self._line = end
            return None
        self._step = ChunkedBody._take_size
        return position + 2

    def _take_trailer(self, data: bytes, position: int) -> int | None:
        line = self._next_line(data, position)
        if line is None:
            return None
        self._trailer += len(line) + 2
        if self._trailer > MAX_TRAILER:
            raise HeadersTooLarge(f"Trailers are limited to {MAX_TRAILER} bytes.")
        if not _TRAILER.fullmatch(line):
            raise BadRequest(f"The trailer {_show(line)} is not a header line.")
        return position + len(line) + 2

    def _next_line(self, data: bytes, position: int) -> bytes | None:
        limit = MAX_CHUNK_LINE if self._step is ChunkedBody._take_size else MAX_TRAILER
        end = data.find(b"\r\n", position, position + limit + 2)
        if end >= 0:
            return data[position:end]
        self._line = data[position:]
        if self._line.find(b"\n", 0, limit + 2) >= 0:
            raise BadRequest("A line between chunks has a bare line feed.")
        if len(self._line) > limit + 1:
            kind = BadRequest if limit == MAX_CHUNK_LINE else HeadersTooLarge
            raise kind(f"A line between chunks is limited to {limit} bytes.", limit=limit)
        return None


Step = Callable[[ChunkedBody, bytes, int], int | None]
"""Reads on from a position: the position after, or None when more bytes are needed."""


class UnboundedBody:
    """A response's body that lasts until the connection ends; bounded all the same.

    Attributes:
        body: What has come of it so far.
    """

    __slots__ = ("_limit", "body")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.body = bytearray()

    def take(self, data: bytes) -> None:
        """Takes what came.

        Raises:
            PayloadTooLarge: It is more than the limit.
        """
        self.body += data
        if len(self.body) > self._limit:
            detail = f"The body is limited to {self._limit} bytes."
            raise PayloadTooLarge(detail, limit=self._limit)


def _show(line: bytes) -> str:
    return shown(line.decode("latin-1"))
