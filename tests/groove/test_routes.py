"""Every route, called: it answers as the document says, changes what it should, records that."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from groove_trio import Groove
from groove_trio.api.openapi import document
from groove_trio.api.routes import FEED_PATH, PARAMETER, ROUTES
from groove_trio.shell.credentials import CredentialFile
from groove_trio.testing import RawClient, connect_memory, open_test_groove, scripted, wait_for_line
from groove_trio.words.secret import Secret

WAITS = [{"do": "print", "text": "ready"}, {"do": "read"}, {"do": "read"}]
DOCUMENT: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document()))


@dataclass
class House:
    """A groove with one agent of each kind that a route may want."""

    groove: Groove
    client: RawClient
    running: str
    ended: str
    interrupted: str


@functools.cache
def a_key() -> Path:
    """A configuration directory with one stored key, to be copied: it takes half a second."""
    made = Path(tempfile.mkdtemp(prefix="groove-config-", dir=os.environ["XDG_CONFIG_HOME"]))
    CredentialFile(made).store("kept", None, Secret("sk-0"))
    return made


@asynccontextmanager
async def house(project: Path) -> AsyncIterator[House]:
    config = project.parent / "config"
    shutil.copytree(a_key(), config, dirs_exist_ok=True)
    with trio.CancelScope() as crash:
        async with open_test_groove(project, config_dir=config) as groove:
            left = await groove.spawn(scripted(WAITS, scope=["left/**"], interactive=True))
            crash.cancel()
            await trio.lowlevel.checkpoint()
    async with (
        open_test_groove(project, config_dir=config) as groove,
        connect_memory(groove) as client,
    ):
        running = await groove.spawn(scripted(WAITS, scope=["src/**"], interactive=True))
        ended = await groove.spawn(scripted([{"do": "print"}], scope=["docs/**"]))
        await wait_for_line(groove, running.id, "ready")
        await groove.wait(ended.id)
        await groove.declare(running.id, ["notes.md"])
        yield House(groove, client, running.id, ended.id, left.id)


Call = Callable[[House], tuple[str, Any]]

CALLS: dict[str, Call] = {
    "GET /api/health": lambda _: ("/api/health", None),
    "GET /api/status": lambda _: ("/api/status", None),
    "GET /api/openapi.json": lambda _: ("/api/openapi.json", None),
    "GET /api/providers": lambda _: ("/api/providers", None),
    "GET /api/agents": lambda _: ("/api/agents", None),
    "POST /api/agents": lambda _: ("/api/agents", {"role": "new", "argv": ["true"], "scope": []}),
    "GET /api/agents/{id}": lambda house: (f"/api/agents/{house.running}", None),
    "PATCH /api/agents/{id}": lambda house: (
        f"/api/agents/{house.running}",
        {"name": "renamed", "graceS": 1, "restart": {"mode": "on-failure"}},
    ),
    "DELETE /api/agents/{id}": lambda house: (f"/api/agents/{house.ended}", None),
    "POST /api/agents/{id}/stop": lambda house: (f"/api/agents/{house.running}/stop", {}),
    "POST /api/agents/{id}/restart": lambda house: (f"/api/agents/{house.ended}/restart", None),
    "POST /api/agents/{id}/resume": lambda house: (f"/api/agents/{house.interrupted}/resume", None),
    "POST /api/agents/{id}/instruct": lambda house: (
        f"/api/agents/{house.running}/instruct",
        {"text": "go"},
    ),
    "GET /api/agents/{id}/output": lambda house: (
        f"/api/agents/{house.ended}/output?after=0&limit=10",
        None,
    ),
    "GET /api/locks": lambda _: ("/api/locks", None),
    "GET /api/explain": lambda _: ("/api/explain?path=src/a.py", None),
    "POST /api/knock": lambda house: (
        "/api/knock",
        {"agent": house.running, "path": "docs/a.md", "operation": "write"},
    ),
    "GET /api/coordination": lambda _: ("/api/coordination", None),
    "POST /api/coordination/declare": lambda house: (
        "/api/coordination/declare",
        {"agent": house.running, "paths": ["shared.md"], "ttlS": 60, "reason": "notes"},
    ),
    "POST /api/coordination/complete": lambda house: (
        "/api/coordination/complete",
        {"agent": house.running},
    ),
    "GET /api/credentials": lambda _: ("/api/credentials", None),
    "PUT /api/credentials/{provider}": lambda _: (
        "/api/credentials/claude",
        {"value": "sk-1", "variable": "ANTHROPIC_API_KEY"},
    ),
    "DELETE /api/credentials/{provider}": lambda _: ("/api/credentials/kept", None),
    "GET /api/audit": lambda _: ("/api/audit?limit=5", None),
    "GET /api/audit/verify": lambda _: ("/api/audit/verify", None),
}

RECORDS: dict[str, set[str]] = {
    "POST /api/agents": {"agent.spawn", "agent.started"},
    "PATCH /api/agents/{id}": {"agent.patch", "agent.rename"},
    "DELETE /api/agents/{id}": {"agent.remove"},
    "POST /api/agents/{id}/stop": {"agent.stop", "agent.stopped", "agent.release"},
    "POST /api/agents/{id}/restart": {"agent.restore", "agent.restart", "agent.started"},
    "POST /api/agents/{id}/resume": {"agent.restore", "agent.resume", "agent.started"},
    "POST /api/agents/{id}/instruct": {"agent.instruct"},
    "POST /api/knock": {"knock.denied"},
    "POST /api/coordination/declare": {"lease.declare"},
    "POST /api/coordination/complete": {"lease.complete"},
    "PUT /api/credentials/{provider}": {"credential.set"},
    "DELETE /api/credentials/{provider}": {"credential.remove"},
}
"""What is in the log when the answer is there, for each route that changes something or knocks."""

ASKED_FOR = {"agent.spawn", "agent.patch", "agent.stop", "agent.remove", "agent.restart"}

NAMES = [f"{route.method} {route.path}" for route in ROUTES]
BY_NAME = dict(zip(NAMES, ROUTES, strict=True))


def test_every_route_is_called_below() -> None:
    assert set(CALLS) == set(NAMES)


def test_every_route_that_changes_something_says_what_it_records() -> None:
    assert set(RECORDS) == {name for name in NAMES if not name.startswith("GET ")}


@pytest.mark.parametrize("name", NAMES)
async def test_a_route_answers_as_the_document_says_and_records_what_it_does(
    project: Path, name: str, records: Callable[[], list[dict[str, Any]]]
) -> None:
    route = BY_NAME[name]
    operation = DOCUMENT["paths"][route.path][route.method.lower()]
    async with house(project) as home:
        (log,) = (project / ".groove/audit").iterdir()
        before, known = log.read_bytes(), len(records())
        target, body = CALLS[name](home)
        if body is not None:
            check(body, operation["requestBody"]["content"]["application/json"]["schema"])
        answer = await home.client.request(route.method, target, body)
        made = records()[known:]
        assert answer.status == route.status, answer.body
        assert answer.headers["content-type"] == "application/json"
        declared = operation["responses"][str(route.status)]["content"]["application/json"]
        check(answer.json, declared["schema"])
        if route.answer is not dict:
            decoded = msgspec.json.decode(answer.body, type=route.answer)
            assert msgspec.json.decode(msgspec.json.encode(decoded)) == answer.json
        assert log.read_bytes().startswith(before)
    asked = {each["action"] for each in made}
    assert RECORDS.get(name, set()) <= asked
    if name not in RECORDS:
        assert asked == set()
    for record in made:
        if record["action"] in ASKED_FOR | {"knock.denied", "lease.declare", "lease.complete"}:
            assert record["actor"] == "owner"


BAD: list[tuple[bytes | None, list[tuple[bytes, bytes]]]] = [
    (b"[", []),
    (b'{"__proto__":1}', []),
    (b'{"text":"x","agent":"nobody","paths":["x"]}', []),
    (None, [(b"origin", b"null")]),
    (None, [(b"content-type", b"text/plain")]),
]


async def test_every_route_refuses_as_the_document_says(project: Path) -> None:
    async with open_test_groove(project) as groove, connect_memory(groove) as client:
        for route in ROUTES:
            responses = DOCUMENT["paths"][route.path][route.method.lower()]["responses"]
            target = PARAMETER.sub("nobody", route.path)
            for body, headers in BAD:
                answer = await client.request(route.method, target, body, headers)
                if answer.status == route.status:
                    continue  # it takes no body, or any media type
                declared = responses.get(str(answer.status), responses["default"])
                assert answer.headers["content-type"] == "application/problem+json"
                check(answer.json, declared["content"]["application/problem+json"]["schema"])
                assert answer.json["status"] == answer.status


# Methods


async def test_head_answers_as_get_does_without_the_body(project: Path) -> None:
    async with house(project) as home:
        for name in NAMES:
            if not name.startswith("GET "):
                continue
            target, _ = CALLS[name](home)
            got = await home.client.request("GET", target)
            headed = await home.client.request("HEAD", target)
            assert (headed.status, headed.body) == (200, b"")
            assert headed.headers["content-type"] == got.headers["content-type"]
            if name != "GET /api/status":  # its uptime has any number of digits
                assert headed.headers["content-length"] == got.headers["content-length"]
        health = await home.client.request("GET", "/api/health")
        assert health.json == {"ok": True}  # no body came late


async def test_options_and_405_tell_the_methods_and_grant_nothing(project: Path) -> None:
    paths = {route.path: set[str]() for route in ROUTES}
    for route in ROUTES:
        paths[route.path] |= {route.method, "OPTIONS"} | ({"HEAD"} & _head(route.method))
    async with open_test_groove(project) as groove, connect_memory(groove) as client:
        for path, methods in paths.items():
            target = PARAMETER.sub("nobody", path)
            answer = await client.request(
                "OPTIONS",
                target,
                headers=[
                    (b"access-control-request-method", b"POST"),
                    (b"access-control-request-headers", b"content-type"),
                ],
            )
            assert (answer.status, answer.body) == (204, b"")
            assert set(answer.headers["allow"].split(", ")) == methods
            assert not [each for each in answer.headers if each.startswith("access-control")]
            for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - methods:
                answer = await client.request(method, target)
                assert (answer.status, answer.slug) == (405, "method-not-allowed"), (method, path)
                assert set(answer.headers["allow"].split(", ")) == methods
                assert set(answer.json["allow"]) == methods


def _head(method: str) -> set[str]:
    return {"HEAD"} if method == "GET" else set()


async def test_what_is_no_route_is_404_for_every_method(project: Path) -> None:
    async with open_test_groove(project) as groove, connect_memory(groove) as client:
        for path in (
            "/",
            "/api",
            "/api/",
            "/api/agents/",
            "/API/health",
            "/ws/",
            "//",
            "/..",
            "/%",
        ):
            for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
                answer = await client.request(method, path)
                assert answer.status == 404, (method, path)
                assert answer.headers["content-type"] == "application/problem+json"


async def test_nothing_but_reading_can_be_done_to_the_log(project: Path) -> None:
    async with open_test_groove(project) as groove, connect_memory(groove) as client:
        for path in ("/api/audit", "/api/audit/verify"):
            for method in ("POST", "PUT", "PATCH", "DELETE"):
                assert (await client.request(method, path)).status == 405


# The document


def test_the_document_has_every_route_and_no_other() -> None:
    told = {f"{m.upper()} {path}" for path, each in DOCUMENT["paths"].items() for m in each}
    assert told == set(NAMES)
    assert FEED_PATH not in DOCUMENT["paths"]  # OpenAPI has no words for a WebSocket


def test_the_document_is_built_as_openapi_3_1_wants_it() -> None:
    assert set(DOCUMENT) == {"openapi", "info", "paths", "components"}
    assert re.fullmatch(r"3\.1\.\d+", DOCUMENT["openapi"])
    assert {"title", "version"} <= set(DOCUMENT["info"])
    operations = [each for path in DOCUMENT["paths"].values() for each in path.values()]
    ids = [each["operationId"] for each in operations]
    assert len(ids) == len(set(ids))
    for path, methods in DOCUMENT["paths"].items():
        assert path.startswith("/")
        assert set(methods) <= {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
        for operation in methods.values():
            check_operation(path, operation)


def check_operation(path: str, operation: dict[str, Any]) -> None:
    allowed = {"summary", "operationId", "parameters", "requestBody", "responses"}
    assert set(operation) <= allowed
    for status, response in operation["responses"].items():
        assert re.fullmatch(r"[1-5]\d\d|default", status)
        assert response["description"]
        assert set(response) <= {"description", "content"}
    parameters = operation.get("parameters", [])
    assert all({"name", "in", "schema"} <= set(each) for each in parameters)
    in_path = {each["name"] for each in parameters if each["in"] == "path"}
    assert in_path == set(re.findall(r"\{(\w+)\}", path))
    assert all(each["required"] for each in parameters if each["in"] == "path")
    assert len({(each["in"], each["name"]) for each in parameters}) == len(parameters)
    assert set(operation.get("requestBody", {})) <= {"required", "content"}


def test_every_reference_in_the_document_leads_somewhere() -> None:
    text = json.dumps(DOCUMENT)
    references = set(re.findall(r'"(#/[^"]+)"', text))
    assert references
    for reference in references:
        place = DOCUMENT
        for step in reference[2:].split("/"):
            place = place[step]
    named = {each.rpartition("/")[2] for each in references}
    envelope = {"Envelope"}  # for the feed, which no path tells of
    assert set(DOCUMENT["components"]["schemas"]) - named - envelope == {
        "PageQuery", "AuditQuery", "ExplainQuery", "KnockQuery",
    }  # fmt: skip


def test_every_pattern_in_the_document_is_one_for_json_schema() -> None:
    text = json.dumps(DOCUMENT)
    assert '"pattern": "^' in text
    assert r"\\A" not in text
    assert r"\\Z" not in text


async def test_every_event_is_as_the_document_says(project: Path) -> None:
    seen: set[str] = set()
    async with house(project) as home, home.client.feed() as feed:
        for name in sorted(RECORDS, key=lambda name: name.endswith("/stop")):
            target, body = CALLS[name](home)
            await home.client.request(name.split()[0], target, body)
        async for envelope in feed:
            told = msgspec.to_builtins(envelope)
            check(told, {"$ref": "#/components/schemas/Envelope"})
            seen.add(told["event"]["type"])
            if told["event"].get("after") == "stopped":
                break
    assert seen >= {
        "snapshot", "agentAdded", "agentChanged", "agentStateChanged", "agentRemoved",
        "knockDecided", "leaseDeclared", "leaseEnded", "outputAppended",
    }  # fmt: skip


# A reader of JSON Schema, for as much of it as the document uses

TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def check(value: Any, schema: dict[str, Any], where: str = "$") -> None:
    """Fails where a value is not what a schema says, or has a field that it does not name."""
    if "$ref" in schema:
        check(value, DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]], where)
        return
    if "anyOf" in schema:
        check_any(value, schema["anyOf"], where)
        return
    if "enum" in schema:
        assert value in schema["enum"], f"{where}: {value!r}"
        return
    if kind := schema.get("type"):
        assert isinstance(value, TYPES[kind]), f"{where}: {value!r} is not {kind}"
        assert kind == "boolean" or not isinstance(value, bool), where
    if isinstance(value, dict):
        check_object(value, schema, where)
    elif isinstance(value, list):
        assert len(value) >= schema.get("minItems", 0), where
        assert len(value) <= schema.get("maxItems", len(value)), where
        for number, each in enumerate(value):
            check(each, schema.get("items", {}), f"{where}[{number}]")
    elif isinstance(value, str):
        assert schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
        assert re.search(schema.get("pattern", ""), value), where
    elif value is not None:
        assert schema.get("minimum", value) <= value <= schema.get("maximum", value), where


def check_any(value: Any, schemas: list[dict[str, Any]], where: str) -> None:
    failures = []
    for schema in schemas:
        try:
            check(value, schema, where)
        except AssertionError as failure:
            failures.append(str(failure))
        else:
            return
    raise AssertionError(f"{where}: none of {failures}")


def check_object(value: dict[str, Any], schema: dict[str, Any], where: str) -> None:
    properties = schema.get("properties")
    assert set(schema.get("required", ())) <= set(value), f"{where}: {sorted(value)}"
    for name, each in value.items():
        if properties is not None and name in properties:
            check(each, properties[name], f"{where}.{name}")
        elif isinstance(schema.get("additionalProperties"), dict):
            check(each, schema["additionalProperties"], f"{where}.{name}")
        else:
            free = properties is None or schema.get("title") == "Problem"
            assert free, f"{where}.{name} is not declared"
