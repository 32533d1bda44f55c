"""Turns a problem document (RFC 9457) back into the error that it was on the other side."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, TypeVar

import msgspec

from groove_trio.words.errors import GrooveError, RemoteError, shown

TYPE_PREFIX = "urn:groove-trio:problem:"
_STANDARD = frozenset({"type", "title", "status", "detail", "instance"})  # RFC 9457, section 3.1

T = TypeVar("T")


def problem_of(error: GrooveError) -> dict[str, Any]:
    """The problem document of an error, for output that a program reads."""
    return {
        **error.fields,
        "type": TYPE_PREFIX + error.slug,
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
    }


def error_from(status: int, body: bytes) -> GrooveError:
    """The error that an answer stands for.

    Args:
        status: The HTTP status; not a success.
        body: The body, which should be a problem document.

    Returns:
        The class of the document's slug with its fields, or a `RemoteError` where the slug is
        unknown here or where the body is no problem document; `status` is in its fields.
    """
    try:
        told = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return RemoteError(f"the daemon answered {status} and gave no reason", status=status)
    slug = str(told.get("type", "")).removeprefix(TYPE_PREFIX)
    detail = str(told.get("detail") or told.get("title") or f"the daemon answered {status}")
    fields = {name: value for name, value in told.items() if name not in _STANDARD}
    kind = _by_slug().get(slug)
    if kind is None:
        kind, fields = RemoteError, fields | {"status": status, "slug": slug}
    error = kind(detail)
    error.fields.update(fields)  # not as keywords: a field may be called "detail" or "self"
    return error


def decode_answer(body: bytes, schema: type[T]) -> T:
    """Decodes the body of a success.

    Raises:
        RemoteError: It isn't what this client expects; the versions may differ.
    """
    try:
        return msgspec.json.decode(body, type=schema)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RemoteError(
            f"the daemon's answer can't be read ({shown(str(error))}); "
            "is it of the same version as this client?"
        ) from error


@cache
def _by_slug() -> dict[str, type[GrooveError]]:
    return {kind.slug: kind for kind in _descendants(GrooveError)}


def _descendants(kind: type[GrooveError]) -> Iterator[type[GrooveError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _descendants(child)
