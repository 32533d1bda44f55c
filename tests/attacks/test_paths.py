"""Paths as an attacker writes them, on every route that takes one: none leads out of the project.

A path is part of the target (``/api/agents/{id}``), of the query (``explain``), or of the body
(knocks, leases, working directories, scopes). What leads outside is refused or said to be outside;
no answer tells what is there, and what is only odd is a name like any other.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from groove_trio.api.routes import PARAMETER, ROUTES

Siege = Any  # of conftest.py, which cannot be imported
Attack = Any
Daemon = Any

DENIALS = {"access.refuse", "knock.denied", "lease.refuse", "agent.refuse"}
OUTSIDE_TOLD = (b"nobody's business", b"root:x:0", b"PATH=", b"daemon.lock")
"""What the files say that no path leads to."""

WITH_PARAMETER = [route for route in ROUTES if PARAMETER.search(route.path)]

KEYS = {
    "up": "..",
    "up, encoded": "%2e%2e",
    "up, in capitals": "%2E%2E",
    "up, encoded twice": "%252e%252e",
    "up, overlong": "%c0%ae%c0%ae",
    "up, wide": "%ef%bc%8e%ef%bc%8e",
    "up and over": "..%2ftwo",
    "up and away": "%2e%2e%2f%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "up by backslash": "..\\two",
    "up by encoded backslash": "..%5ctwo",
    "in pieces": "one/../two",
    "absolute": "/etc/passwd",
    "NUL": "one%00",
    "line feed": "one%0a",
    "parameter": "one;two",
    "encoded": "%6f%6e%65",
    "home": "~",
    "variable": "$HOME",
    "the template": "{id}",
    "pattern": "*",
    "nothing": "",
    "overlong": "a" * 65,
    "much too long": "a" * 8000,
    "our own files": ".groove",
    "extension": "one.json",
}

TARGETS = {
    "up": "/../../etc/passwd",
    "up, encoded": "/%2e%2e/%2e%2e/etc/passwd",
    "up, slashes encoded": "/..%2f..%2f..%2fetc%2fpasswd",
    "up, encoded twice": "/%252e%252e/etc/passwd",
    "up within": "/api/../api/agents",
    "up to the route": "/api/health/../agents",
    "up behind a parameter": "/..;/api/agents",
    "up by backslash": "/..\\..\\etc\\passwd",
    "here": "/./api/agents",
    "two slashes": "//api/agents",
    "two slashes and a host": "//evil.example/api/agents",
    "two slashes within": "/api//agents",
    "slash behind": "/api/agents/",
    "capitals": "/API/agents",
    "encoded": "/%61pi/agents",
    "NUL behind": "/api/agents%00",
    "line break and a field": "/api/agents%0d%0aX-Injected:%20yes",
    "our own files": "/.groove/daemon.json",
    "our own log": "/.groove/audit/",
    "the project": "/one/file.txt",
    "the system": "/proc/self/environ",
    "a file's URL": "/file:///etc/passwd",
}

OUTSIDE = {
    "up": "../outside/secret.txt",
    "up from within": "one/../../outside/secret.txt",
    "far up": "../" * 64 + "etc/passwd",
    "absolute": "/etc/passwd",
    "absolute with two slashes": "//etc/passwd",
    "through a link": "out/secret.txt",
    "a link": "leak.txt",
    "a link itself": "out",
    "up behind a link": "out/../outside/secret.txt",
    "to what is missing": "out/missing/deeper",
    "the directory above": "..",
    "begins as the project": "../project-2/x",
    "a device": "/dev/null",
}

UNDECIDED = {
    "up from nothing": "nothing/../../outside/secret.txt",
    "beneath a file": "one/file.txt/x",
    "the process's directory": "/proc/self/cwd/one/file.txt",
    "the process's root": "/proc/self/root/etc/passwd",
    "NUL": "one/a\0b",
    "NUL and an extension": "../outside/secret.txt\0.md",
    "overlong": "a/" * 3000,
    "overlong name": "a" * 300,
    "long and up": "one/../" * 500 + "one",
}

OURS = {
    "the daemon's file": ".groove/daemon.json",
    "the log": ".groove/audit/00000001.jsonl",
    "the log, up and back": "one/../.groove/audit/x",
    "the log, with dots": "././/.groove/./audit/x",
    "git's hooks": ".git/hooks/pre-commit",
    "other agents' orders": ".claude/settings.json",
}

LITERAL = {
    "percent": "%2e%2e/outside/secret.txt",
    "backslash": "..\\outside\\secret.txt",
    "home": "~/.ssh/id_rsa",
    "variable": "$HOME/.ssh/id_rsa",
    "four dots": "....//....//outside/secret.txt",
    "wide dots": "\uff0e\uff0e/outside/secret.txt",
    "a URL": "file:///etc/passwd",
    "substitution": "$(touch one/x)",
}


def ask(first: str, body: object = None) -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{first} HTTP/1.1\r\nHost: {{host}}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


def strike(attack: Attack, first: str, outcomes: str, body: object = None) -> Any:
    attack.strike(ask(first, body), on=attack.struck_on)
    answer = attack.expect(outcomes)
    for told in OUTSIDE_TOLD:
        assert told not in answer.body
    return answer.json


def knock(path: str, operation: str = "write") -> dict[str, Any]:
    return {"agent": "one", "operation": operation, "path": path}


def hook(tool: str, cwd: str = "", **arguments: str) -> dict[str, Any]:
    return {"hook_event_name": "P", "tool_name": tool, "tool_input": arguments, "cwd": cwd}


def spawn(**fields: Any) -> dict[str, Any]:
    """Would run, and be seen, if it were not for `fields`."""
    return {"role": "intruder", "provider": "demo", "prompt": "[]", "scope": []} | fields


def knock_in_every_way(attack: Attack, path: str) -> None:
    """No form of a knock is granted."""
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/api/knock", knock(path)),
        ("/api/knock", knock(path, "rename")),
        ("/api/knock?agent=one", hook("Write", file_path=path)),
        ("/api/knock?agent=one", hook("Edit", file_path=path, cwd=".")),
        ("/api/knock?agent=one", hook("apply_patch", command=f"*** Delete File: {path}\n")),
    ]
    for target, body in asked:
        answer = strike(attack, f"POST {target}", "200 open | 400 open", body)
        assert answer.get("allow", False) is False, answer


@pytest.mark.parametrize("key", KEYS)
def test_no_parameter_leads_to_a_handler(siege: Siege, key: str) -> None:
    with siege() as attack:
        for route in WITH_PARAMETER:
            target = PARAMETER.sub(lambda _: KEYS[key], route.path)
            answer = strike(attack, f"{route.method} {target}", "404 open")
            assert answer["type"].endswith(":no-such-route")


@pytest.mark.parametrize("target", TARGETS)
def test_no_target_leads_to_a_file_or_another_route(siege: Siege, target: str) -> None:
    with siege() as attack:
        answer = strike(attack, f"GET {TARGETS[target]}", "404 open")
        assert answer["type"].endswith(":no-such-route")


@pytest.mark.parametrize("case", OUTSIDE)
def test_what_leads_outside_is_said_to(siege: Siege, case: str) -> None:
    path = OUTSIDE[case]
    with siege(records=DENIALS) as attack:
        assert not strike(attack, f"GET /api/explain?path={quote(path)}", "200 open")["inside"]
        knock_in_every_way(attack, path)
        lease = {"agent": "one", "paths": ["mine.md", path]}
        for first, body in (
            ("POST /api/coordination/declare", lease),
            ("POST /api/agents", spawn(cwd=path)),
        ):
            answer = strike(attack, first, "400 open", body)
            assert answer["type"].endswith(":outside-project")


@pytest.mark.parametrize("case", UNDECIDED)
def test_what_leads_nowhere_for_sure_is_refused(siege: Siege, case: str) -> None:
    path = UNDECIDED[case]
    lease = {"agent": "one", "paths": ["mine.md", path]}
    with siege(records=DENIALS) as attack:
        strike(attack, f"GET /api/explain?path={quote(path)[:8000]}", "400 open")
        knock_in_every_way(attack, path)
        strike(attack, "POST /api/coordination/declare", "400 open", lease)
        strike(attack, "POST /api/agents", "400 open", spawn(cwd=path))


@pytest.mark.parametrize("case", OURS)
def test_what_is_protected_is_nobodys(siege: Siege, case: str) -> None:
    path = OURS[case]
    lease = {"agent": "one", "paths": ["mine.md", path]}
    with siege(records=DENIALS) as attack:
        told = strike(attack, f"GET /api/explain?path={quote(path)}", "200 open")
        assert told["protectedBy"]
        knock_in_every_way(attack, path)
        strike(attack, "POST /api/coordination/declare", "403 open", lease)


@pytest.mark.parametrize("case", LITERAL)
def test_what_is_only_odd_is_a_name(siege: Siege, case: str) -> None:
    """Nothing is decoded, expanded or run: it is a name inside the project, and nobody's."""
    path = LITERAL[case]
    with siege(records=DENIALS) as attack:
        told = strike(attack, f"GET /api/explain?path={quote(path)}", "200 open")
        assert (told["inside"], told["exists"]) == (True, False)
        knock_in_every_way(attack, path)


HIDDEN = (
    "../home/.ssh/id_rsa",
    "out/../home/.aws/credentials",
    "one/../../home/.netrc",
    "out/../home/.ssh",
)


@pytest.mark.parametrize("path", HIDDEN)
def test_secrets_are_not_read(siege: Siege, path: str) -> None:
    # Of what a tool may take a path for, one may be harmless; all must be granted.
    with siege(records=DENIALS | {"knock.granted"}) as attack:
        for target, body in (
            ("/api/knock", knock(path, "read")),
            ("/api/knock?agent=one", hook("Read", file_path=path)),
            ("/api/knock?agent=one", hook("Grep", path="..", pattern="KEY")),
            ("/api/knock?agent=one", hook("Grep", cwd="/", pattern="KEY")),
        ):
            assert strike(attack, f"POST {target}", "200 open", body)["allow"] is False


SCOPES = {
    "up": "../**",
    "up only": "..",
    "up within": "one/../../**",
    "up at the end": "x/..",
    "absolute": "/etc/**",
    "the root": "/",
    "NUL": "x\0/**",
    "here": "./x",
    "nothing between slashes": "x//y",
    "up in braces": "{x,..}/y",
    "up in a class": "[.][.]/y",
    "up escaped": "\\.\\./y",
    "backslashes": "..\\y",
    "home": "~/**",
    "much in braces": "{a,b}" * 40,
}


@pytest.mark.parametrize("case", SCOPES)
def test_no_scope_leads_outside(siege: Siege, case: str) -> None:
    with siege() as attack:
        strike(attack, "POST /api/agents", "400 open", spawn(scope=[SCOPES[case]]))


NAMES = ("../one", "one/../two", "/etc/passwd", "%6fne", "one\0", "*", "")


@pytest.mark.parametrize("name", NAMES)
def test_no_name_in_a_body_or_a_query_leads_elsewhere(siege: Siege, name: str) -> None:
    with siege(records=DENIALS) as attack:
        answer = strike(
            attack, "POST /api/knock", "200 open | 400 open", knock("x") | {"agent": name}
        )
        assert answer.get("allow", False) is False
        lease = {"agent": name, "paths": ["mine.md"]}
        strike(attack, "POST /api/coordination/declare", "404 open | 400 open", lease)
        given = {"agent": "one", "lease": name}
        strike(attack, "POST /api/coordination/complete", "404 open", given)
        target = f"/api/audit?agent={quote(name)}x"
        assert strike(attack, f"GET {target}", "200 open")["records"] == []
