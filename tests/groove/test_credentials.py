"""Stored keys over HTTP and from Python: names and dates out, values in, all of it on record."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from groove_trio import AgentSpec, Groove, Secret, errors
from groove_trio.providers.base import Launch, Place
from groove_trio.shell import files
from groove_trio.shell.audit import AuditLog
from groove_trio.shell.credentials import CredentialFile
from groove_trio.shell.machine import this_machine
from groove_trio.testing import connect_memory, lines_of, open_test_groove
from groove_trio.words.agents import Containment

VALUE = "sk-canary-fedcba9876543210"
PATH = "/api/credentials"
Records = Callable[[], list[dict[str, Any]]]


class Keyed:
    """Runs argv with a key in its environment."""

    name = "keyed"
    summary = "With a key"
    containment: tuple[Containment, ...] = ("hooks",)
    credentials = ("FIRST_KEY", "SECOND_KEY")

    def launch(self, spec: AgentSpec, place: Place) -> Launch:
        return Launch(argv=tuple(spec.argv))

    def instruct(self, text: str) -> bytes:
        return text.encode()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config"


def settings(config: Path) -> dict[str, Any]:
    return {"config_dir": config, "providers": [Keyed()]}


async def told(groove: Groove, name: str, **spec: Any) -> list[str]:
    """What an agent of the provider has in a variable."""
    code = f"import os; print(os.environ.get({name!r}))"
    argv = [sys.executable, "-I", "-S", "-c", code]
    fields: dict[str, Any] = {"provider": "keyed", "scope": [], "argv": argv, **spec}
    agent = await groove.spawn(AgentSpec(role="r", **fields))
    await groove.wait(agent.id)
    return await lines_of(groove, agent.id)


async def test_put_get_delete(project: Path, config: Path, records: Records) -> None:
    async with (
        open_test_groove(project, **settings(config)) as groove,
        connect_memory(groove) as client,
    ):
        assert (await client.request("GET", PATH)).json == []
        put = await client.request("PUT", f"{PATH}/keyed", {"value": VALUE})
        assert put.status == 200
        assert put.json.keys() == {"provider", "variable", "set", "sealed", "known"}
        assert put.json["known"] is True
        got = await client.request("GET", PATH)
        assert got.json == [put.json]
        assert await told(groove, "FIRST_KEY") == [VALUE]
        other = await client.request(
            "PUT", f"{PATH}/keyed", {"value": VALUE[::-1], "variable": "SECOND_KEY"}
        )
        assert other.json["variable"] == "SECOND_KEY"
        assert await told(groove, "SECOND_KEY") == [VALUE[::-1]]
        assert await told(groove, "FIRST_KEY") == ["None"]
        gone = await client.request("DELETE", f"{PATH}/keyed")
        assert gone.json == other.json
        assert await told(groove, "SECOND_KEY") == ["None"]
        assert (await client.request("DELETE", f"{PATH}/keyed")).slug == "unknown-credential"
        assert not (config / "credentials.json").exists()
        for answer in (put, got, other, gone):
            assert b"sk-canary" not in answer.body
    found = [each for each in records() if each["action"].startswith("credential.")]
    assert [(each["action"], each["actor"]) for each in found] == [
        ("credential.set", "owner"),
        ("credential.use", "system"),
        ("credential.set", "owner"),
        ("credential.use", "system"),
        ("credential.use", "system"),
        ("credential.remove", "owner"),
    ]
    assert found[1]["agent"]
    assert found[1]["detail"]["variable"] == "FIRST_KEY"
    assert "sk-canary" not in json.dumps(records())


async def test_providers_without_the_declaration_get_no_key(project: Path, config: Path) -> None:
    async with open_test_groove(project, **settings(config)) as groove:
        await groove.set_credential("keyed", Secret(VALUE))
        for name in ("FIRST_KEY", "SECOND_KEY"):
            assert await told(groove, name, provider="command") == ["None"]
        code = "import os; print(sorted(os.environ.values()))"
        argv = [sys.executable, "-I", "-S", "-c", code]
        lines = await told(groove, "", provider="command", argv=argv)
        assert VALUE not in "".join(lines)


BAD: list[tuple[object, str]] = [
    ({}, "value"),
    ({"value": ""}, "value"),
    ({"value": 1}, "value"),
    ({"value": None}, "value"),
    ({"value": [VALUE]}, "value"),
    ({"value": f"{VALUE}\n"}, "value"),
    ({"value": f" {VALUE}"}, "value"),
    ({"value": f"{VALUE}\u00e4"}, "value"),
    ({"value": VALUE * 400}, "value"),
    ({"value": VALUE, "variable": ""}, "variable"),
    ({"value": VALUE, "variable": "A=B"}, "variable"),
    ({"value": VALUE, "variable": "LD_PRELOAD"}, "variable"),
    ({"value": VALUE, "__proto__": {}}, "$"),
    (b"[" + VALUE.encode(), "$"),
    (b'{"value":"' + VALUE.encode(), "$"),
    (b"", "$"),
]


@pytest.mark.parametrize(("body", "field"), BAD, ids=range(len(BAD)))
async def test_bad_input_is_refused_and_not_shown(
    body: object, field: str, project: Path, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with (
        open_test_groove(project, **settings(config)) as groove,
        connect_memory(groove) as client,
    ):
        answer = await client.request("PUT", f"{PATH}/keyed", body)
        assert (answer.status, answer.slug) == (400, "bad-request")
        assert field in json.dumps(answer.json)
        assert b"sk-canary" not in answer.body
        assert await groove.credentials() == []
    assert "sk-canary" not in caplog.text


@pytest.mark.parametrize("name", ["command", "demo", "Keyed", "KEYED", "a" * 65])
async def test_no_key_for_what_takes_none_or_cannot_be_a_provider(
    name: str, project: Path, config: Path
) -> None:
    async with (
        open_test_groove(project, **settings(config)) as groove,
        connect_memory(groove) as client,
    ):
        answer = await client.request("PUT", f"{PATH}/{name}", {"value": VALUE})
        assert answer.status in {400, 404}
        assert b"sk-canary" not in answer.body
        assert not (config / "credentials.json").exists()


async def test_a_key_of_an_unknown_provider_waits_for_it(project: Path, config: Path) -> None:
    async with open_test_groove(project, config_dir=config) as groove:
        view = await groove.set_credential("keyed", Secret(VALUE), variable="ANY")
        assert not view.known
    async with open_test_groove(project, **settings(config)) as groove:
        with pytest.raises(errors.BadRequest, match="not in 'ANY'"):
            await told(groove, "ANY")
        await groove.set_credential("keyed", Secret(VALUE))
        assert await told(groove, "FIRST_KEY") == [VALUE]


async def test_an_agent_may_do_nothing_with_keys(project: Path, config: Path) -> None:
    code = """
import http.client, os
host, port = os.environ["GROOVE_URL"].removeprefix("http://").split(":")
for method, path in (("GET", ""), ("PUT", "/keyed"), ("DELETE", "/keyed")):
    link = http.client.HTTPConnection(host, int(port))
    link.request(method, "/api/credentials" + path, '{"value":"x"}' if method == "PUT" else None,
                 {"content-type": "application/json"})
    print(method, link.getresponse().status, flush=True)
"""
    async with open_test_groove(project, **settings(config)) as groove:
        await groove.set_credential("keyed", Secret(VALUE))
        argv = [sys.executable, "-c", code]
        for provider in ("command", "keyed"):
            lines = await told(groove, "", provider=provider, argv=argv)
            assert lines == ["GET 403", "PUT 403", "DELETE 403"]
        assert await told(groove, "FIRST_KEY") == [VALUE]


async def test_nothing_is_stored_that_cannot_be_recorded(
    project: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_test_groove(project, **settings(config)) as groove:
        await groove.set_credential("keyed", Secret("old"))

        async def full(log: AuditLog, entry: object) -> int:
            raise errors.AuditUnavailable

        monkeypatch.setattr(AuditLog, "record", full)
        for change in (
            lambda: groove.set_credential("keyed", Secret("new")),
            lambda: groove.remove_credential("keyed"),
        ):
            with pytest.raises(errors.AuditUnavailable):
                await change()
        with pytest.raises(errors.AuditUnavailable):
            await told(groove, "FIRST_KEY")
        monkeypatch.undo()
        assert await told(groove, "FIRST_KEY") == ["old"]


async def test_a_change_that_fails_is_taken_back_on_record(
    project: Path, config: Path, monkeypatch: pytest.MonkeyPatch, records: Records
) -> None:
    async with open_test_groove(project, **settings(config)) as groove:
        await groove.set_credential("keyed", Secret("old"))
        write = files.write_all

        def full(descriptor: int, data: bytes) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(files, "write_all", full)
        with pytest.raises(errors.VaultUnavailable, match="No space left"):
            await groove.set_credential("keyed", Secret("new"))
        monkeypatch.setattr(files, "write_all", write)
        assert await told(groove, "FIRST_KEY") == ["old"]
    *_, asked, undo = [each for each in records() if each["action"] in {"credential.set", "undo"}]
    assert (undo["action"], undo["detail"]["of"]) == ("undo", asked["seq"])


async def test_no_path_is_told_of_files_that_cannot_be_used(project: Path, config: Path) -> None:
    async with (
        open_test_groove(project, **settings(config)) as groove,
        connect_memory(groove) as client,
    ):
        await groove.set_credential("keyed", Secret(VALUE))
        (config / "credentials.json").chmod(0o644)
        for method, path in (("GET", ""), ("PUT", "/keyed"), ("DELETE", "/keyed")):
            body = {"value": VALUE} if method == "PUT" else None
            answer = await client.request(method, PATH + path, body)
            assert (answer.status, answer.slug) == (503, "vault-unavailable")
            assert b"0644" in answer.body
            assert str(config).encode() not in answer.body
            assert b"sk-canary" not in answer.body


async def test_a_daemon_does_not_start_on_keys_that_others_may_read(
    project: Path, config: Path
) -> None:
    CredentialFile(config).store("keyed", None, Secret(VALUE))
    (config / "credentials.json").chmod(0o604)
    with pytest.raises(errors.UnsafeState, match="0604"):
        async with open_test_groove(project, **settings(config)):
            pass


async def test_the_log_tells_at_the_start_which_keys_there_are(
    project: Path, config: Path, records: Records
) -> None:
    async with open_test_groove(project, **settings(config)):
        pass
    stored = CredentialFile(config).store("keyed", None, Secret(VALUE))
    async with open_test_groove(project, **settings(config)):
        pass
    (config / "credentials.json").write_bytes(b"{}")
    async with open_test_groove(project, **settings(config)) as groove:
        with pytest.raises(errors.SealBroken):
            await told(groove, "FIRST_KEY")
        assert groove.agents() == []
    found = [each["detail"] for each in records() if each["action"] == "credential.found"]
    assert found == [{"keys": {"keyed": stored.at}}, {"problem": "it is cut short or damaged"}]


async def test_another_machine_is_told_by_what_changed(
    project: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CredentialFile(config).store("keyed", None, Secret(VALUE))
    monkeypatch.setenv("HOME", "/home/elsewhere")
    async with (
        open_test_groove(project, **settings(config)) as groove,
        connect_memory(groove) as client,
    ):
        answer = await client.request("PUT", f"{PATH}/claude", {"value": VALUE})
        assert (answer.status, answer.slug) == (409, "machine-changed")
        assert answer.json["changed"] == ["home directory"]
        with pytest.raises(errors.MachineChanged, match="credentials rebind --old-home"):
            await told(groove, "FIRST_KEY")
        monkeypatch.undo()
        old = this_machine()
        monkeypatch.setenv("HOME", "/home/elsewhere")
        CredentialFile(config).rebind(old)  # by the command line, beside the daemon
        assert await told(groove, "FIRST_KEY") == [VALUE]


async def test_no_key_where_agents_can_read_what_opens_it(project: Path) -> None:
    config = project / "src" / "config"
    CredentialFile(config).store("keyed", None, Secret(VALUE))
    async with open_test_groove(project, **settings(config)) as groove:
        with pytest.raises(errors.VaultUnavailable, match="inside the project"):
            await told(groove, "FIRST_KEY")
        with pytest.raises(errors.VaultUnavailable, match="inside the project"):
            await groove.set_credential("keyed", Secret(VALUE))
        await groove.remove_credential("keyed")


async def test_what_breaks_after_a_key_was_opened_does_not_show_it(
    project: Path, config: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    def breaks(*_: object, **__: object) -> int:
        raise RuntimeError("a fault of ours")

    async with open_test_groove(project, **settings(config)) as groove:
        await groove.set_credential("keyed", Secret(VALUE))
        monkeypatch.setattr("groove_trio.shell.opening.spawn", breaks)
        with pytest.raises(errors.GrooveError) as caught:
            await told(groove, "FIRST_KEY")
        assert "sk-canary" not in repr(caught.value) + repr(caught.value.fields)
    assert "a fault of ours" in caplog.text
    assert "sk-canary" not in caplog.text


async def test_writers_at_once_lose_nothing(project: Path, config: Path) -> None:
    names = [f"p{number}" for number in range(6)]
    async with (
        open_test_groove(project, **settings(config)) as groove,
        open_test_groove(**settings(config)) as other,
        trio.open_nursery() as nursery,
    ):
        for number, name in enumerate(names):
            whose = other if number % 2 else groove
            nursery.start_soon(whose.set_credential, name, Secret(name))
    assert [each.provider for each in CredentialFile(config).records()] == names
