"""The OpenAPI 3.1 document, made from the table of routes and the schemas."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import cache
from typing import Any, cast

import msgspec

from groove_trio.api.calls import Route
from groove_trio.api.routes import PARAMETER, ROUTES
from groove_trio.words import events
from groove_trio.words.errors import BadRequest, GrooveError, NotAdmitted

_REF = "#/components/schemas/{name}"
EVERYWHERE: tuple[type[GrooveError], ...] = (BadRequest, NotAdmitted)


class Problem(msgspec.Struct):
    """A refusal (RFC 9457); further fields depend on its type."""

    type: str
    title: str
    status: int
    detail: str


@cache
def document_json() -> msgspec.Raw:
    """The document as JSON; made once."""
    return msgspec.Raw(msgspec.json.encode(document()))


def document() -> dict[str, Any]:
    """The document as plain values."""
    from groove_trio import __version__  # noqa: PLC0415 - read when asked, the package is lazy

    types = [each for route in ROUTES for each in (route.body, route.query, route.answer)]
    types = [each for each in types if each not in (None, dict)] + [Problem, events.Envelope]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    known = dict(zip(map(repr, types), schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, known)
    return {
        "openapi": "3.1.0",
        "info": {"title": "groove-trio", "version": __version__},
        "paths": paths,
        "components": {"schemas": {name: _plain(each) for name, each in components.items()}},
    }


def _plain(schema: Any) -> Any:
    r"""A schema as others read it: patterns in the dialect of JSON Schema, text without indent.

    ECMA-262 knows neither ``\A`` nor ``\Z``; its ``$`` takes no trailing newline.
    """
    if isinstance(schema, list):
        return [_plain(each) for each in cast("Iterable[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    plain = {name: _plain(each) for name, each in cast("dict[str, Any]", schema).items()}
    if isinstance(plain.get("pattern"), str):
        plain["pattern"] = plain["pattern"].replace(r"\A", "^").replace(r"\Z", "$")
    if isinstance(plain.get("description"), str):
        plain["description"] = inspect.cleandoc(plain["description"])
    return plain


def _operation(route: Route, known: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": route.summary,
        "operationId": route.handler.__name__,
        "responses": {str(route.status): _content("The answer", known.get(repr(route.answer)))},
    }
    for error in (*EVERYWHERE, *route.errors):
        _add_problem(found["responses"], str(error.status), error.title, known[repr(Problem)])
    _add_problem(found["responses"], "default", "Any other refusal", known[repr(Problem)])
    if route.body is not None:
        found["requestBody"] = {"required": True, **_content("", known[repr(route.body)])}
        del found["requestBody"]["description"]
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in PARAMETER.findall(route.path)
    ]
    if route.query is not None:
        parameters += _query_parameters(route.query)
    if parameters:
        found["parameters"] = parameters
    return found


def _content(description: str, schema: Any) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": schema or {"type": "object"}}},
    }


def _add_problem(responses: dict[str, Any], status: str, title: str, schema: Any) -> None:
    content = {"application/problem+json": {"schema": schema}}
    entry = responses.setdefault(status, {"description": "", "content": content})
    titles = [each for each in entry["description"].split("; ") if each]
    entry["description"] = "; ".join([*titles, title])


def _query_parameters(schema: Any) -> list[dict[str, Any]]:
    (_,), components = msgspec.json.schema_components([schema])
    (found,) = components.values()
    required = found.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _plain(shape)}
        for name, shape in found["properties"].items()
    ]
