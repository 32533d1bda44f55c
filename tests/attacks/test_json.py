"""JSON as an attacker writes it, to the routes that change the most: nothing is spawned by it.

First the text itself: what two readers could take for two things, and what is too deep, too long
or too odd. Then each field with a value of the wrong kind or beyond its bounds.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

Siege = Any  # of conftest.py, which cannot be imported

REQUEST = (
    b"%s HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)
SPAWN = "POST /api/agents"
BIG = 1024 * 1024  # the most a body may have


def spec(**fields: Any) -> bytes:
    """An agent that would be spawned, but for `fields`."""
    asked = {"role": "intruder", "provider": "demo", "prompt": "[]", "scope": []}
    return json.dumps(asked | fields).encode()


def with_member(member: str | bytes) -> bytes:
    """An agent that would be spawned, with one more member as it is written."""
    return spec()[:-1] + b"," + (member.encode() if isinstance(member, str) else member) + b"}"


TEXTS: dict[str, bytes] = {
    "nothing": b"",
    "white space": b" \r\n\t",
    "a number": b"1",
    "a string": b'"spec"',
    "null": b"null",
    "a list": b"[]",
    "100,000 brackets": b"[" * 100_000,
    "100,000 brackets closed": b"[" * 100_000 + b"]" * 100_000,
    "100,000 objects": b'{"a":' * 100_000,
    "33 levels": with_member('"x":' + "[" * 33 + "]" * 33),
    "10,001 keys": with_member(",".join(f'"k{n}":0' for n in range(10_001))),
    "50,001 values": with_member('"x":[' + "0," * 50_001 + "0]"),
    "quotes alone": b'"' * BIG,
    "backslashes alone": b'{"' + b"\\" * (BIG - 2),
    "a string of 1 MiB": b'{"role":"' + b"r" * (BIG - 11) + b'"}',
    "5,000 digits": with_member('"graceS":' + "1" * 5000),
    "5,000 digits after the point": with_member('"graceS":0.' + "1" * 5000),
    "1e999": with_member('"graceS":1e999'),
    "-1e999 unread": with_member('"x":[{"y":-1e999}]'),
    "NaN": with_member('"graceS":NaN'),
    "Infinity": with_member('"graceS":Infinity'),
    "-Infinity unread": with_member('"x":-Infinity'),
    "a hexadecimal number": with_member('"graceS":0x1'),
    "a number with a leading zero": with_member('"graceS":01'),
    "a number with a plus": with_member('"graceS":+1'),
    "a key twice": with_member('"role":"owner"'),
    "a key twice, escaped": with_member('"r\\u006fle":"owner"'),
    "a key twice beneath": with_member('"x":{"a":1,"a":2}'),
    "half a surrogate": with_member('"name":"\\ud800"'),
    "half a surrogate unread": with_member('"x":["\\udfff"]'),
    "half a surrogate in a key": with_member('"\\ud800":1'),
    "surrogates in the wrong order": with_member('"x":"\\udc00\\ud800"'),
    "a surrogate in UTF-8": with_member(b'"x":"\xed\xa0\x80"'),
    "overlong UTF-8": with_member(b'"x":"\xc0\xaf"'),
    "beyond Unicode": with_member(b'"x":"\xf4\x90\x80\x80"'),
    "UTF-8 cut": with_member(b'"x":"\xe2\x82"'),
    "Latin-1": with_member('"x":"\xe9"'.encode("latin-1")),
    "UTF-16": spec().decode().encode("utf-16"),
    "UTF-32": spec().decode().encode("utf-32"),
    "a byte order mark": b"\xef\xbb\xbf" + spec(),
    "a NUL before": b"\0" + spec(),
    "a NUL behind": spec() + b"\0",
    "a NUL in a string": with_member(b'"x":"\0"'),
    "a line feed in a string": with_member(b'"x":"\n"'),
    "an unknown escape": with_member('"x":"\\x41"'),
    "__proto__": with_member('"__proto__":{"permission":"full"}'),
    "__proto__ beneath": with_member('"x":[{"__proto__":1}]'),
    "__proto__ in a variable": spec(env={"__proto__": "x"}),
    "__proto__ escaped": with_member('"\\u005f_proto__":1'),
    "__proto__ escaped whole": with_member(
        '"' + "".join(f"\\u{ord(char):04x}" for char in "__proto__") + '":1'
    ),
    "constructor": with_member('"constructor":{"prototype":{"admin":1}}'),
    "prototype": with_member('"x":{"prototype":1}'),
    "constructor escaped": with_member('"c\\u006fnstructor":1'),
    "__class__": with_member('"__class__":"Owner"'),
    "__init__ beneath": with_member('"restart":{"__init__":1}'),
    "cut": spec()[:-1],
    "cut in a string": spec()[:12],
    "cut in an escape": b'{"role":"\\u00',
    "two documents": spec() + spec(),
    "something behind": spec() + b"]",
    "a final comma": spec()[:-1] + b",}",
    "single quotes": spec().replace(b'"', b"'"),
    "a comment": b"/* */" + spec(),
    "a form": b"role=intruder&provider=demo",
    "XML": b'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><r>&x;</r>',
    "pickle": b"cos\nsystem\n(S'id'\ntR.",
}

FIELDS: dict[str, bytes] = {
    "no role": b'{"provider":"demo"}',
    "role of 51": spec(role="r" * 51),
    "role with a line feed": spec(role="owner\n"),
    "role with a slash": spec(role="../owner"),
    "role not ASCII": spec(role="оwner"),  # noqa: RUF001 - a Cyrillic letter is the attack
    "role a list": spec(role=["r"]),
    "role an object": spec(role={"$ne": None}),
    "name of 65": spec(name="n" * 65),
    "name with a NUL": spec(name="n\0"),
    "name that climbs": spec(name=".."),
    "name with markup": spec(name="<script>"),
    "scope of 21": spec(scope=["a"] * 21),
    "pattern of 201": spec(scope=["a" * 201]),
    "pattern empty": spec(scope=[""]),
    "pattern a number": spec(scope=[1]),
    "scope a string": spec(scope="**"),
    "scope null": spec(scope=None),
    "prompt of 50,001": spec(prompt="p" * 50_001),
    "prompt of 50,001 beyond the BMP": spec(prompt="\U0001f600" * 50_001),
    "prompt a list": spec(prompt=[]),
    "permission root": spec(permission="root"),
    "permission FULL": spec(permission="FULL"),
    "permission null": spec(permission=None),
    "permission true": spec(permission=True),
    "permission in a list": spec(permission=["full"]),
    "unknown provider": spec(provider="sh"),
    "provider a path": spec(provider="../../bin/sh"),
    "argv a shell line": spec(provider="command", argv="rm -rf /"),
    "argv with a NUL": spec(provider="command", argv=["true", "a\0b"]),
    "argv of 1,001": spec(provider="command", argv=["true"] * 1001),
    "argv a number": spec(provider="command", argv=[1]),
    "variable with an equals sign": spec(env={"LD_PRELOAD=x;A": "b"}),
    "variable with a NUL": spec(env={"A": "b\0LD_PRELOAD=x"}),
    "variable a number": spec(env={"A": 1}),
    "65 variables": spec(env={f"V{n}": "" for n in range(65)}),
    "containment unknown": spec(containment="none"),
    "grace below zero": spec(graceS=-1),
    "grace of 1e300": spec(graceS=1e300),
    "grace a string": spec(graceS="1"),
    "interactive a number": spec(interactive=1),
    "restart of another mode": spec(restart={"mode": "forever"}),
    "restart without a wait": spec(restart={"mode": "always", "firstS": 0}),
    "restart 2^64 times": spec(restart={"mode": "always", "maxRestarts": 2**64}),
}

OTHERS: dict[str, tuple[str, bytes]] = {
    "stop: grace a string": ("POST /api/agents/one/stop", b'{"graceS":"now"}'),
    "stop: grace below zero": ("POST /api/agents/one/stop", b'{"graceS":-1}'),
    "stop: a list": ("POST /api/agents/one/stop", b"[]"),
    "stop: a proto": ("POST /api/agents/one/stop", b'{"__proto__":{"graceS":0}}'),
    "restart: a body": ("POST /api/agents/one/restart", b'{"force":true}'),
    "remove: a body": ("DELETE /api/agents/one", b'{"force":true}'),
    "remove: depth": ("DELETE /api/agents/one", b"[" * 100_000),
    "patch: name empty": ("PATCH /api/agents/one", b'{"name":""}'),
    "patch: name with a slash": ("PATCH /api/agents/one", b'{"name":"../two"}'),
    "patch: grace of 301": ("PATCH /api/agents/one", b'{"graceS":301}'),
    "instruct: text empty": ("POST /api/agents/one/instruct", b'{"text":""}'),
    "instruct: text of 50,001": (
        "POST /api/agents/one/instruct",
        json.dumps({"text": "t" * 50_001}).encode(),
    ),
    "declare: no paths": ("POST /api/coordination/declare", b'{"agent":"one","paths":[]}'),
    "declare: 65 paths": (
        "POST /api/coordination/declare",
        json.dumps({"agent": "one", "paths": [f"p{n}" for n in range(65)]}).encode(),
    ),
    "declare: for ever": (
        "POST /api/coordination/declare",
        b'{"agent":"one","paths":["p"],"ttlS":1e300}',
    ),
    "declare: for no time": (
        "POST /api/coordination/declare",
        b'{"agent":"one","paths":["p"],"ttlS":0}',
    ),
    "complete: a list": ("POST /api/coordination/complete", b'{"agent":"one","lease":["x"]}'),
    "complete: nobody": ("POST /api/coordination/complete", b'{"agent":""}'),
    "knock: no path": ("POST /api/knock", b'{"agent":"one","operation":"write"}'),
    "knock: another operation": (
        "POST /api/knock",
        b'{"agent":"one","operation":"chmod","path":"one/a"}',
    ),
    "knock: input a list": (
        "POST /api/knock?agent=one",
        b'{"hook_event_name":"PreToolUse","tool_name":"Write","tool_input":[]}',
    ),
    "knock: a proto within the input": (
        "POST /api/knock?agent=one",
        b'{"hook_event_name":"P","tool_name":"Write","tool_input":{"x":{"__proto__":"two/a"}}}',
    ),
}

CASES = {
    **{f"text: {name}": (SPAWN, body) for name, body in TEXTS.items()},
    **{f"field: {name}": (SPAWN, body) for name, body in FIELDS.items()},
    **OTHERS,
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_comes_of_it_but_a_reason(siege: Siege, case: str) -> None:
    first, body = CASES[case]
    with siege() as attack:
        attack.strike(REQUEST % (first.encode(), len(body)) + body)
        answer = attack.expect("400 open")
        problem = answer.json
        assert problem["type"].startswith("urn:groove-trio:problem:")
        assert problem["detail"]
        assert len(answer.body) < 2048, "more is told back than was needed"


def test_unknown_members_are_dropped_and_the_rest_still_judged(siege: Siege) -> None:
    body = spec(actor="owner", uid=0, shell=True, state="running", provider="nobody")
    with siege() as attack:
        attack.strike(REQUEST % (SPAWN.encode(), len(body)) + body)
        assert attack.expect("400 open").json["type"].endswith(":unknown-provider")
