"""JSON from outside, decoded into a schema, with everything ambiguous refused.

msgspec checks types and limits, quickly. What it leaves open are the places where two readers
of one document can understand two things: it takes the last of repeated keys, skips unknown
fields without a look at their values, and answers deep nesting with RecursionError. So the
text is looked at as a whole before it is decoded: depth, number of values, repeated keys, keys
that mean something to JavaScript or Python objects, numbers that no double can hold, half
surrogate pairs, anything but UTF-8.

The look costs a few microseconds for an ordinary body: C code parts the text at its strings,
and only sets and counts are compared. What seems odd there (it need not be) is parsed again
by `_Walk` with every detail kept, which decides, and names the place. Sizes are bounded before
anything recursive or slow is done, so that the worst body of 1 MiB costs tens of milliseconds.
"""

from __future__ import annotations

import codecs
import functools
import itertools
import json
import math
import operator
import re
from collections.abc import Hashable
from typing import Any, NoReturn, TypeVar, cast

import msgspec

from groove_trio.words.errors import BadRequest, shown

T = TypeVar("T")

MAX_DEPTH = 32  # as ASP.NET Core's forms and Rack's parameters; its JSON takes 64
MAX_KEYS = 10_000  # in all objects of one document together; PHP's max_input_vars is 1,000
MAX_VALUES = 50_000  # in one document; bounds what looking closely costs
MAX_QUOTES = 2 * (MAX_KEYS + MAX_VALUES)  # what keys and strings within bounds can have
MAX_NUMBER = 64  # characters; a double needs 24, 2**128 has 39
MAX_DETAIL = 300  # characters of a message that came from a library
MAX_PLACE = 200  # characters of a path into the document

FORBIDDEN = frozenset({"__proto__", "constructor", "prototype"})
"""Keys that change a JavaScript object itself rather than what it holds. Every ``__dunder__``
key is refused beside them: it would do so in Python."""

_FORBIDDEN_RAW = frozenset(key.encode() for key in FORBIDDEN)
_ODD = re.compile(rb"[NI]|[eE][+-]?[0-9]{3}|[-+.eE0-9]{%d}" % (MAX_NUMBER + 1))
_HALF_ESCAPED = re.compile(rb"\\u[dD][89a-fA-F]")
_HALF = re.compile("[\ud800-\udfff]")
_BACKSLASH = ord("\\")  # as numbers: bytes in bytes is ten times slower, by way of an exception
_COLON = ord(":")
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NOT_BRACKETS = bytes(set(range(256)) - set(_STEP))
_PLACE = re.compile(r"\A(.*) - at `([^`]*)`\Z", re.DOTALL)


def decode(data: bytes, type: type[T]) -> T:
    """Decodes a JSON document into a schema. Unknown fields are dropped.

    Raises:
        BadRequest: `field` says where, such as ``$.scope[3]``.
    """
    _look(data)
    try:
        decoder: msgspec.json.Decoder[T] = _decoder(type)  # type: ignore[arg-type]
        return decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _refusal(str(error)) from error


@functools.cache
def _decoder(type: Hashable) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(type)


def _refusal(message: str) -> BadRequest:
    """What msgspec said, as one of ours."""
    found = _PLACE.match(message)
    detail, place = found.groups() if found is not None else (message, "$")
    place = place[:MAX_PLACE]
    where = "" if place == "$" else f"{place.removeprefix('$.')}: "
    return BadRequest(f"{where}{detail[:MAX_DETAIL]}.", field=place)


def _look(data: bytes) -> None:
    """Raises for a document that is not fit to be decoded."""
    if not data.isascii():
        _check_text(data)
    # Without escaped quotes (and escaped backslashes, which may stand before a real one),
    # every second part between quotes is a string. Replacing goes from the left, as JSON does.
    bare = data
    if _BACKSLASH in data:
        bare = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > MAX_QUOTES:
        raise BadRequest(f"The JSON has more than {MAX_VALUES} values.", field="$")
    parts = bare.split(b'"')
    structure = b"".join(parts[::2])
    follows = map(operator.contains, parts[2::2], itertools.repeat(_COLON))
    keys = list(itertools.compress(parts[1::2], follows))
    _check_size(structure, len(keys))
    names = b"\n".join(keys)
    if (
        len(set(keys)) != len(keys)
        or names.find(b"__") >= 0
        or _BACKSLASH in names
        or not _FORBIDDEN_RAW.isdisjoint(keys)
        or _ODD.search(structure)
        or (bare.find(b"\\u") >= 0 and _HALF_ESCAPED.search(bare))
    ):
        _Walk().document(data)


def _check_text(data: bytes) -> None:
    if data.startswith(codecs.BOM_UTF8):
        # RFC 8259, section 8.1: must not be added, may be refused
        raise BadRequest("The JSON begins with a byte order mark.", field="$")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"The JSON is not UTF-8 at byte {error.start}.", field="$") from error


def _check_size(structure: bytes, keys: int) -> None:
    """Bounds the document by its text without the strings."""
    if keys > MAX_KEYS:
        raise BadRequest(f"The JSON has more than {MAX_KEYS} keys.", field="$")
    opened = structure.count(b"{") + structure.count(b"[")
    if opened + structure.count(b",") > MAX_VALUES:
        raise BadRequest(f"The JSON has more than {MAX_VALUES} values.", field="$")
    if opened > MAX_DEPTH:
        steps = map(_STEP.__getitem__, structure.translate(None, _NOT_BRACKETS))
        if max(itertools.accumulate(steps)) > MAX_DEPTH:
            raise BadRequest(f"The JSON is nested deeper than {MAX_DEPTH} levels.", field="$")


class _Object(list[tuple[str, Any]]):
    """The members of an object, repeated ones included."""


class _Number(str):
    """A number as it was written."""

    __slots__ = ()


class _Walk:
    """Goes through a document value by value. Recursion is bounded by `MAX_DEPTH`."""

    def document(self, data: bytes) -> None:
        try:
            tree = _DETAILED.decode(data.decode())
        except json.JSONDecodeError as error:
            message = f"The JSON is malformed: {error.msg} at character {error.pos}."
            raise BadRequest(message, field="$") from error
        self.value(tree, "$")

    def value(self, value: Any, place: str) -> None:
        match value:
            case _Object():
                self.members(value, place)
            case list():
                for index, item in enumerate(cast("list[object]", value)):
                    self.value(item, f"{place}[{index}]")
            case _Number():
                self.number(value, place)
            case str() if _HALF.search(value):
                raise BadRequest("A string has half a surrogate pair.", field=place[:MAX_PLACE])
            case _:
                pass

    def members(self, members: _Object, place: str) -> None:
        seen: set[str] = set()
        for key, value in members:
            name = shown(key)
            if key in seen:
                raise BadRequest(f"The key {name} is given twice.", field=place[:MAX_PLACE])
            if key in FORBIDDEN or (key.startswith("__") and key.endswith("__")):
                raise BadRequest(f"The key {name} is not allowed.", field=place[:MAX_PLACE])
            if _HALF.search(key):
                raise BadRequest("A key has half a surrogate pair.", field=place[:MAX_PLACE])
            seen.add(key)
            self.value(value, f"{place}.{name[1:-1]}")

    def number(self, number: _Number, place: str) -> None:
        if len(number) > MAX_NUMBER:
            detail = f"A number may have {MAX_NUMBER} characters."
        elif math.isinf(float(number)):
            detail = f"The number {shown(number)} is too large."
        else:
            return
        raise BadRequest(detail, field=place[:MAX_PLACE])


def _refuse_constant(constant: str) -> NoReturn:
    raise BadRequest(f"{constant} is not a JSON number.", field="$")


_DETAILED = json.JSONDecoder(
    object_pairs_hook=_Object,
    parse_int=_Number,
    parse_float=_Number,
    parse_constant=_refuse_constant,
)
