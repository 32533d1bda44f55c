"""The one place where an error becomes ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

from typing import Any

import msgspec

from groove_trio.wire.handshake import REFUSAL_HEADERS
from groove_trio.wire.http import Response
from groove_trio.words.errors import GrooveError, MethodNotAllowed, UpgradeRequired

TYPE_PREFIX = "urn:groove-trio:problem:"
UNAVAILABLE = 503
PROBLEM_TYPE = (b"content-type", b"application/problem+json")


def problem_document(error: GrooveError) -> dict[str, Any]:
    """The problem document of an error; of a 5xx it tells nothing but the error's own words."""
    return {
        "type": TYPE_PREFIX + error.slug,
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        **error.fields,
    }


def problem(error: GrooveError) -> Response:
    """The answer that an error becomes, with the header fields that its status demands."""
    headers: list[tuple[bytes, bytes]] = [PROBLEM_TYPE]
    match error:
        case MethodNotAllowed():  # RFC 9110, 15.5.6
            headers.append((b"allow", ", ".join(error.fields.get("allow", ())).encode()))
        case UpgradeRequired():  # RFC 9110, 15.5.22
            headers += REFUSAL_HEADERS
        case _ if error.status == UNAVAILABLE:
            headers.append((b"retry-after", b"1"))
        case _:
            pass
    return Response(error.status, headers, msgspec.json.encode(problem_document(error)))
