"""The head of an HTTP message, checked byte by byte before h11 sees it.

h11 is lenient by design: it takes a bare LF for a line end, joins folded lines, lets
Content-Length stand beside Transfer-Encoding (and serves what follows as a second request),
merges repeated lengths, and parses ``HTTP/9.9``. Each of these is a way in which two parsers
of one byte stream can come to disagree, so none of them passes here. One regular expression
matches a whole good head; only a bad one is taken apart, to name what is wrong with it.

The expressions are linear: every repetition is possessive or followed by a byte that it
cannot match.

Rules are those of RFC 9112 (sections named beside the checks), made stricter where it leaves
a choice: no absolute-form target, no method that no route has, no line folding.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from groove_trio.words.errors import (
    BadAnswer,
    BadRequest,
    ExpectationFailed,
    GrooveError,
    HeadersTooLarge,
    NotImplementedHere,
    PayloadTooLarge,
    UriTooLong,
    VersionNotSupported,
    shown,
)

Headers = list[tuple[bytes, bytes]]
"""Fields in the order they came: lower-case names, values without outer white space."""

MAX_HEAD = 32 * 1024  # nginx: 4 buffers of 8 KiB; Node.js and h11: 16 KiB in all
MAX_LINE = 8190  # Apache's LimitRequestLine and LimitRequestFieldSize; RFC 9112 asks for 8000
MAX_FIELDS = 100  # Apache's LimitRequestFields
MAX_LENGTH_DIGITS = 19  # what fits into a signed 64-bit number; h11 takes 20

METHODS = {
    name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
}
"""What some resource of ours might answer. CONNECT and TRACE: never, for any resource."""

SINGLE = frozenset(
    {
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"content-type",
        b"origin",
        b"expect",
        b"sec-fetch-site",
        b"sec-websocket-key",
        b"sec-websocket-version",
        b"sec-websocket-accept",
    }
)
"""Fields whose repetition would let two readers see two requests: refused."""

_DECIDING = frozenset({b"connection", b"expect", b"upgrade"})

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_VALUE = rb"[^\x00-\x08\x0a-\x1f\x7f]*+"
_FIELDS = rb"((?:" + _TOKEN + rb":" + _VALUE + rb"\r\n)*+)"
_REQUEST = re.compile(
    rb"(" + _TOKEN + rb") ([\x21\x22\x24-\x7e]++) HTTP/(1\.[01])\r\n" + _FIELDS + rb"\r\n"
)
_STATUS = re.compile(
    rb"HTTP/(1\.[01]) ([1-9][0-9]{2})(?: " + _VALUE + rb")?\r\n" + _FIELDS + rb"\r\n"
)
_FIELD = re.compile(rb"([^:\r\n]++):([^\r\n]*+)\r\n")
_TOKEN_ONLY = re.compile(_TOKEN)
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n|\Z)")
_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")


class RequestHead(NamedTuple):
    """A request's head, understood.

    `length` is None without a Content-Length; `expects` says that the client waits for a 100;
    `ordinary`, that nothing in the head bears on what becomes of the connection.
    """

    method: str
    target: str
    version: str
    headers: Headers
    length: int | None
    chunked: bool
    expects: bool
    ordinary: bool
    upgrades: bool


NO_HEAD = RequestHead("", "", "", [], None, False, False, False, False)


class ResponseHead(NamedTuple):
    """A response's head, understood. `length` is None without a Content-Length."""

    status: int
    version: str
    headers: Headers
    length: int | None
    chunked: bool


NO_ANSWER = ResponseHead(0, "", [], None, False)


def read_request(head: bytes, max_body: int) -> RequestHead:
    """Reads a whole request head, from the method to the empty line.

    Raises:
        GrooveError: With the status to answer: 400, 413, 414, 417, 431, 501 or 505.
    """
    if len(head) > MAX_LINE:
        _check_lines(head)
    match = _REQUEST.fullmatch(head)
    if match is None:
        raise _fault_of_request(head)
    raw_method, target, version, block = match.groups()
    method = METHODS.get(raw_method)
    if method is None:
        detail = f"The method {_show(raw_method)} is not one of {', '.join(METHODS.values())}."
        raise NotImplementedHere(detail)
    if target[:1] != b"/" and not (target == b"*" and method == "OPTIONS"):
        detail = f"The request target {_show(target)} must be a path that begins with '/'."
        raise BadRequest(detail)
    headers, fields = _read_fields(block)
    if b"host" not in fields and version == b"1.1":
        # RFC 9112, section 3.2
        raise BadRequest("An HTTP/1.1 request must have a Host field.")
    length, chunked = _read_framing(fields, version)
    if length is not None and length > max_body:
        raise PayloadTooLarge(f"The body is limited to {max_body} bytes.", limit=max_body)
    ordinary = not chunked and version == b"1.1" and _decides_nothing(headers, fields)
    return RequestHead(
        method,
        target.decode(),
        version.decode(),
        headers,
        length,
        chunked,
        not ordinary and _expects(fields, version),
        ordinary,
        not ordinary and version == b"1.1" and b"websocket" in tokens(headers, b"upgrade"),
    )


def read_response(head: bytes) -> ResponseHead:
    """Reads a whole response head, from the version to the empty line.

    Raises:
        BadAnswer: It is not one.
    """
    if len(head) > MAX_LINE:
        _check_lines(head)
    match = _STATUS.fullmatch(head)
    if match is None:
        raise BadAnswer(f"The answer does not begin as HTTP/1.1 does: {_show(head)}.")
    version, status, block = match.groups()
    try:
        headers, fields = _read_fields(block)
        length, chunked = _read_framing(fields, version)
    except GrooveError as error:
        raise BadAnswer(error.detail) from error
    return ResponseHead(int(status), version.decode(), headers, length, chunked)


def check_unfinished(start: bytes, checked: int) -> None:
    """Checks the beginning of a head whose end has not come, so that no one waits for it in vain.

    Args:
        start: What has come of the head.
        checked: How much of it was checked before, less a few bytes; else a head that comes
            byte by byte would cost the square of its length.

    Raises:
        GrooveError: It can no longer become a good head.
    """
    found = _FORBIDDEN.search(start, checked)
    if found is not None:
        raise _fault_of_byte(found)
    if len(start) > MAX_LINE:
        _check_lines(start)


def tokens(headers: Headers, name: bytes) -> list[bytes]:
    """The members of a comma-separated field, over all its lines, in lower case."""
    return [
        member
        for found, value in headers
        if found == name
        for member in map(bytes.strip, value.lower().split(b","))
        if member
    ]


def _decides_nothing(headers: Headers, fields: dict[bytes, bytes]) -> bool:
    """Whether no field bears on the connection but a ``keep-alive``, as many clients send it."""
    if _DECIDING.isdisjoint(fields):
        return True
    said = [field for field in headers if field[0] in _DECIDING]
    return len(said) == 1 and said[0][0] == b"connection" and said[0][1].lower() == b"keep-alive"


def _expects(fields: dict[bytes, bytes], version: bytes) -> bool:
    # RFC 9110, section 10.1.1: what HTTP/1.0 expects is to be ignored, and whoever expects
    # something else is better told that it will not come than left to find out
    expected = fields.get(b"expect")
    if expected is None or version != b"1.1":
        return False
    if expected.lower() != b"100-continue":
        raise ExpectationFailed(f"Expect may say 100-continue, not {_show(expected)}.")
    return True


def _read_fields(block: bytes) -> tuple[Headers, dict[bytes, bytes]]:
    headers = [(name.lower(), value.strip()) for name, value in _FIELD.findall(block)]
    fields = dict(headers)
    if len(fields) != len(headers):
        _check_repeated([name for name, _ in headers])
    if len(headers) > MAX_FIELDS:
        raise HeadersTooLarge(f"There may be {MAX_FIELDS} header fields.", limit=MAX_FIELDS)
    return headers, fields


def _check_repeated(names: list[bytes]) -> None:
    for name in SINGLE:
        if names.count(name) > 1:
            raise BadRequest(f"The field {name.decode()} may stand only once.")


def _read_framing(fields: dict[bytes, bytes], version: bytes) -> tuple[int | None, bool]:
    coding = fields.get(b"transfer-encoding")
    length = fields.get(b"content-length")
    if coding is None and length is None:
        return None, False
    if coding is None:
        return _read_length(length or b""), False
    if length is not None:
        # RFC 9112, section 6.3: "might indicate an attempt to perform request smuggling"
        raise BadRequest("Content-Length and Transfer-Encoding exclude each other.")
    if version != b"1.1":
        # RFC 9112, section 6.1: the framing of such a message is faulty
        raise BadRequest("HTTP/1.0 has no Transfer-Encoding.")
    if coding.lower() != b"chunked":
        raise _fault_of_coding(coding)
    return None, True


def _fault_of_coding(value: bytes) -> GrooveError:
    *others, last = (each.strip() for each in value.lower().split(b","))
    if others and last == b"chunked" and last not in others:
        # RFC 9112, section 6.1: the end of the body is known, the coding within is not
        return NotImplementedHere(f"Of the transfer codings {_show(value)}, only chunked is known.")
    # section 6.3: "the message body length cannot be determined reliably"
    return BadRequest(f"The transfer coding {_show(value)} does not end as chunked does.")


def _read_length(value: bytes) -> int:
    if not value.isdigit():
        # also "5, 5", which h11 takes for 5, and "+5", which int() does
        raise BadRequest(f"Content-Length {_show(value)} is not a number.")
    if len(value) > MAX_LENGTH_DIGITS:
        raise BadRequest(f"Content-Length {_show(value)} is no length a body can have.")
    return int(value)


def _check_lines(head: bytes) -> None:
    """Raises for a line over the limit, or for a head over its own."""
    line = head.find(b"\r\n")
    if (len(head) if line < 0 else line) > MAX_LINE:
        raise UriTooLong(f"The request line is limited to {MAX_LINE} bytes.", limit=MAX_LINE)
    if max(map(len, head.split(b"\r\n"))) > MAX_LINE:
        raise HeadersTooLarge(f"A header line is limited to {MAX_LINE} bytes.", limit=MAX_LINE)
    if len(head) > MAX_HEAD:
        raise HeadersTooLarge(f"The header is limited to {MAX_HEAD} bytes.", limit=MAX_HEAD)


def _fault_of_request(head: bytes) -> GrooveError:
    """What is wrong with a head that the expression does not match."""
    found = _FORBIDDEN.search(head)
    if found is not None:
        return _fault_of_byte(found)
    line, *fields = head[:-4].split(b"\r\n")
    words = line.split(b" ")
    if len(words) != 3:  # noqa: PLR2004
        return BadRequest(f"The request line {_show(line)} is not 'METHOD /path HTTP/1.1'.")
    method, target, version = words
    if not _TOKEN_ONLY.fullmatch(method):
        return BadRequest(f"The method {_show(method)} is not a token.")
    if _VERSION.fullmatch(version) and version not in {b"HTTP/1.0", b"HTTP/1.1"}:
        return VersionNotSupported(f"The server speaks HTTP/1.1, not {_show(version)}.")
    if not _VERSION.fullmatch(version):
        return BadRequest(f"The protocol {_show(version)} is not 'HTTP/1.1'.")
    for field in fields:
        problem = _fault_of_field(field)
        if problem is not None:
            return BadRequest(problem)
    detail = "has a fragment" if b"#" in target else "is not printable ASCII; percent-encode it"
    return BadRequest(f"The request target {_show(target)} {detail}.")


def _fault_of_field(field: bytes) -> str | None:
    if field[:1] in (b" ", b"\t"):
        # RFC 9112, section 5.2
        return "A header line begins with white space: line folding is obsolete."
    name, colon, _ = field.partition(b":")
    if not colon:
        return f"The header line {_show(field)} has no colon."
    if name.endswith((b" ", b"\t")):
        # RFC 9112, section 5.1
        return f"There is white space before the colon of {_show(name)}."
    if not _TOKEN_ONLY.fullmatch(name):
        return f"The field name {_show(name)} is not a token."
    return None


def _fault_of_byte(found: re.Match[bytes]) -> BadRequest:
    byte = found[0][0]
    what = {10: "a line feed without a carriage return", 13: "a carriage return by itself"}
    return BadRequest(
        f"The header has {what.get(byte, f'the control character 0x{byte:02x}')} "
        f"at byte {found.start()}."
    )


def _show(value: bytes) -> str:
    return shown(value[:256].decode("latin-1"))
