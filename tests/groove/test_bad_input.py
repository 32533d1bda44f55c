"""What bad input gets: a typed error with the reason, nothing held, nothing leaked."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from groove_trio.words import schemas

SPEC: dict[str, Any] = {"role": "tester", "argv": [sys.executable, "-c", "pass"], "scope": []}


def spec(**more: Any) -> dict[str, Any]:
    return {**SPEC, **more}


AT_THE_LIMIT = {
    "role": spec(role="r" * schemas.MAX_ROLE),
    "name": spec(name="n" * schemas.MAX_NAME),
    "patterns": spec(scope=[f"p{n}/" for n in range(schemas.MAX_PATTERNS)]),
    "pattern": spec(scope=["p" * schemas.MAX_PATTERN]),
    "prompt": spec(prompt="ä" * schemas.MAX_PROMPT),
    "permission": spec(permission="full"),
    "argv": spec(argv=[*SPEC["argv"], *["x"] * (schemas.MAX_ARGUMENTS - 3)]),
    "variables": spec(env={f"V{n}": "x" for n in range(schemas.MAX_VARIABLES)}),
    "grace": spec(graceS=schemas.MAX_GRACE_S),
    "unknown field": spec(shell=True, uid=0),
}

BEYOND = {
    "no role": ({"argv": ["true"]}, "bad-request"),
    "empty role": (spec(role=""), "bad-request"),
    "long role": (spec(role="r" * (schemas.MAX_ROLE + 1)), "bad-request"),
    "role with newline": (spec(role="tester\n"), "bad-request"),
    "role with dot": (spec(role="a.b"), "bad-request"),
    "role not ascii": (spec(role="tëster"), "bad-request"),
    "long name": (spec(name="n" * (schemas.MAX_NAME + 1)), "bad-request"),
    "name with slash": (spec(name="../x"), "bad-request"),
    "too many patterns": (spec(scope=["a/"] * (schemas.MAX_PATTERNS + 1)), "bad-request"),
    "long pattern": (spec(scope=["p" * (schemas.MAX_PATTERN + 1)]), "bad-request"),
    "empty pattern": (spec(scope=[""]), "bad-request"),
    "absolute pattern": (spec(scope=["/etc/**"]), "invalid-scope"),
    "climbing pattern": (spec(scope=["a/../b"]), "invalid-scope"),
    "NUL in pattern": (spec(scope=["a\0b"]), "invalid-scope"),
    "long prompt": (spec(prompt="p" * (schemas.MAX_PROMPT + 1)), "bad-request"),
    "permission of another kind": (spec(permission="root"), "bad-request"),
    "permission null": (spec(permission=None), "bad-request"),
    "absolute directory": (spec(cwd="/etc"), "outside-project"),
    "climbing directory": (spec(cwd="../.."), "outside-project"),
    "NUL in directory": (spec(cwd="a\0b"), "bad-request"),
    "NUL in argv": (spec(argv=["echo", "a\0b"]), "bad-request"),
    "no argv": (spec(argv=[]), "bad-request"),
    "too many arguments": (spec(argv=["x"] * (schemas.MAX_ARGUMENTS + 1)), "bad-request"),
    "argv as a line": (spec(argv="rm -rf /"), "bad-request"),
    "variable with equals sign": (spec(env={"A=B": "c"}), "bad-request"),
    "too many variables": (
        spec(env={f"V{n}": "x" for n in range(schemas.MAX_VARIABLES + 1)}),
        "bad-request",
    ),
    "negative grace": (spec(graceS=-1), "bad-request"),
    "long grace": (spec(graceS=schemas.MAX_GRACE_S + 1), "bad-request"),
    "unknown provider": (spec(provider="nobody"), "unknown-provider"),
    "unknown containment": (spec(containment="jail"), "bad-request"),
    "restart of another mode": (spec(restart={"mode": "perhaps"}), "bad-request"),
    "a list": ([], "bad-request"),
    "a string": ("spec", "bad-request"),
    "null": (None, "bad-request"),
}


@pytest.mark.parametrize("case", AT_THE_LIMIT)
async def test_spawn_takes_every_field_at_its_limit(calling: Any, case: str) -> None:
    async with calling() as caller:
        status, answer = await caller.ask("POST", "/api/agents", AT_THE_LIMIT[case])
        assert status == 201, answer
        assert "shell" not in answer


@pytest.mark.parametrize("case", BEYOND)
async def test_spawn_refuses_what_is_beyond(calling: Any, case: str) -> None:
    body, slug = BEYOND[case]
    async with calling() as caller:
        status, answer = await caller.ask("POST", "/api/agents", body)
        assert (answer["type"].rpartition(":")[2], answer["status"]) == (slug, status)
        assert answer["detail"]
        assert caller.groove.agents() == []
        assert caller.groove.locks().holdings == []


DANGEROUS = {
    "100,000 brackets": b"[" * 100_000,
    "100,000 objects": b'{"a":' * 100_000,
    "a duplicate key": b'{"role":"a","role":"b","argv":["true"]}',
    "__proto__": b'{"role":"a","argv":["true"],"__proto__":{"admin":true}}',
    "__proto__ beneath": b'{"role":"a","argv":["true"],"x":[{"__proto__":1}]}',
    "__proto__ in escapes": b'{"role":"a","argv":["true"],"\\u005f_proto__":1}',
    "constructor": b'{"role":"a","argv":["true"],"constructor":{}}',
    "a dunder": b'{"role":"a","argv":["true"],"__class__":1}',
    "NaN": b'{"role":"a","argv":["true"],"graceS":NaN}',
    "1e999": b'{"role":"a","argv":["true"],"graceS":1e999}',
    "half a surrogate": b'{"role":"a","argv":["\\ud800"]}',
    "invalid UTF-8": b'{"role":"a","argv":["\xff"]}',
    "UTF-16": '{"role":"a"}'.encode("utf-16"),
    "nothing": b"",
    "half a document": b'{"role":',
    "two documents": b'{"role":"a","argv":["true"]}{}',
}


@pytest.mark.parametrize("case", DANGEROUS)
async def test_spawn_refuses_dangerous_bytes(calling: Any, case: str) -> None:
    async with calling() as caller:
        status, answer = await caller.send("POST", "/api/agents", DANGEROUS[case])
        assert status == 400, answer
        assert caller.groove.agents() == []
        status, _ = await caller.ask("GET", "/api/health")
        assert status == 200


ROUTES_TO_NOBODY = [
    ("GET", "/api/agents/nobody"),
    ("GET", "/api/agents/nobody/output"),
    ("PATCH", "/api/agents/nobody"),
    ("DELETE", "/api/agents/nobody"),
    ("POST", "/api/agents/nobody/stop"),
    ("POST", "/api/agents/nobody/restart"),
    ("POST", "/api/agents/nobody/resume"),
    ("POST", "/api/agents/nobody/instruct"),
    ("POST", "/api/coordination/declare"),
    ("POST", "/api/coordination/complete"),
]
BODY_FOR_ANY = {"text": "hi", "agent": "nobody", "paths": ["a"]}


@pytest.mark.parametrize(("method", "path"), ROUTES_TO_NOBODY)
async def test_unknown_agent_is_404(calling: Any, method: str, path: str) -> None:
    bodiless = method in {"GET", "DELETE"} or path.endswith(("restart", "resume"))
    async with calling() as caller:
        status, answer = await caller.ask(method, path, None if bodiless else BODY_FOR_ANY)
        assert (status, answer["type"]) == (404, "urn:groove-trio:problem:unknown-agent")


@pytest.mark.parametrize("key", ["..", "%2e%2e", "a%2fb", "a/b", "a" * 65, "a.b", "", "%00"])
async def test_no_path_climbs_out_of_the_agents(calling: Any, key: str) -> None:
    async with calling() as caller:
        status, answer = await caller.ask("GET", f"/api/agents/{key}/output")
        assert (status, answer["type"]) == (404, "urn:groove-trio:problem:no-such-route")


async def test_knock_of_an_unknown_agent_is_denied(calling: Any) -> None:
    body = {"agent": "nobody", "operation": "write", "path": "a"}
    async with calling() as caller:
        status, answer = await caller.ask("POST", "/api/knock", body)
        assert (status, answer["allow"]) == (200, False)


async def test_knock_of_an_unknown_tool_is_denied(calling: Any) -> None:
    async with calling() as caller:
        _, agent = await caller.ask("POST", "/api/agents", spec(argv=["sleep", "60"], scope=["**"]))
        body = {"agent": agent["id"], "tool": "Teleport", "path": "a"}
        status, answer = await caller.ask("POST", "/api/knock", body)
        assert (status, answer["allow"]) == (200, False)


REFUSED_AT_ONCE = {
    "command without argv": (spec(argv=[]), "bad-request"),
    "command without program": (spec(argv=["", "x"]), "bad-request"),
    "demo with argv": (spec(provider="demo"), "bad-request"),
    "demo without steps": (spec(provider="demo", argv=[]), "bad-request"),
    "daemon's own directory": (spec(cwd=".groove"), "outside-project"),
    "directory of an agent": (spec(cwd=".groove/agents"), "outside-project"),
    "own directory by a detour": (spec(cwd="src/../.groove/audit"), "outside-project"),
    "own directory by a link": (spec(cwd="link/agents"), "outside-project"),
}


@pytest.mark.parametrize("case", REFUSED_AT_ONCE)
async def test_what_can_be_seen_at_once_is_refused_without_a_record(
    calling: Any, project: Path, case: str
) -> None:
    (project / "link").symlink_to(".groove")
    body, slug = REFUSED_AT_ONCE[case]
    async with calling() as caller:
        before = await caller.ask("GET", "/api/audit")
        status, problem = await caller.ask("POST", "/api/agents", {**body, "scope": ["src/**"]})
        assert status == 400
        assert problem["type"].endswith(slug)
        assert await caller.ask("GET", "/api/audit") == before
        assert caller.groove.locks().holdings == []


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def children() -> list[str]:
    return (Path("/proc/self/task") / str(os.getpid()) / "children").read_text().split()


def failing(project: Path) -> dict[str, tuple[dict[str, Any], int, str]]:
    plain = project / "plain.txt"
    plain.write_text("not a program\n")
    return {
        "missing program": (spec(argv=["/no/such/program"]), 422, "ENOENT"),
        "missing in PATH": (spec(argv=["no-such-program-anywhere"]), 422, "ENOENT"),
        "not executable": (spec(argv=[str(plain)]), 422, "EACCES"),
        "a directory": (spec(argv=[str(project)]), 422, "EACCES"),
        "too big": (spec(argv=["true", "x" * schemas.MAX_ARGUMENT]), 422, "E2BIG"),
    }


CASES = ("missing program", "missing in PATH", "not executable", "a directory", "too big")


@pytest.mark.parametrize("case", CASES)
async def test_failed_start_leaves_nothing(calling: Any, project: Path, case: str) -> None:
    body, expected, errno = failing(project)[case]
    body = {**body, "scope": ["src/**"]}
    async with calling() as caller:
        await caller.ask("POST", "/api/agents", body)
        before = descriptors(), children()
        for _ in range(5):
            status, answer = await caller.ask("POST", "/api/agents", body)
            assert (status, answer.get("errno")) == (expected, errno), answer
        assert (descriptors(), children()) == before
        assert caller.groove.locks().holdings == []
        assert caller.groove.agents() == []
        assert not list((project / ".groove/agents").iterdir())
