"""``groove-trio credentials`` as it is typed: with a daemon, beside one, and without."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from groove_trio.rules.envelope import INGREDIENTS
from groove_trio.shell.credentials import CredentialFile
from groove_trio.shell.machine import this_machine

VALUE = "sk-canary-00112233445566"
Cli = Callable[..., Any]


@pytest.fixture
def home() -> Iterator[Path]:
    """A configuration directory of the test's own."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        yield Path(made)


@pytest.fixture
def keys(cli: Cli, home: Path, project: Path) -> Cli:
    """Runs ``groove-trio credentials`` where no daemon is."""

    def run(*arguments: str, stdin: str = "", **variables: str) -> Any:
        more = {"XDG_CONFIG_HOME": str(home), **variables}
        return cli("credentials", *arguments, stdin=stdin, **more)

    return run


def stored(home: Path) -> CredentialFile:
    return CredentialFile(home / "groove-trio")


def test_a_key_is_set_listed_and_removed_without_a_daemon(keys: Cli, home: Path) -> None:
    assert keys("list").out == "No keys are stored\n"
    assert keys("list", "--json").json == []
    done = keys("set", "claude", "--variable", "ANTHROPIC_API_KEY", stdin=f"{VALUE}\n")
    assert (done.code, done.out) == (0, "Stored the key of claude\n")
    assert "no project's log has a record" in done.err
    record, secret = stored(home).reveal("claude")
    assert (secret.reveal(), record.variable) == (VALUE, "ANTHROPIC_API_KEY")
    listed = keys("list")
    assert listed.out.splitlines()[0].split() == ["PROVIDER", "VARIABLE", "SET", "SEALED"]
    assert "claude" in listed.out
    assert keys().out == listed.out
    assert keys("--json").json == keys("list", "--json").json
    (told,) = keys("list", "--json").json
    assert told.keys() == {"provider", "variable", "set", "sealed", "known"}
    assert keys("remove", "claude").out == "Removed the key of claude\n"
    gone = keys("remove", "claude", "--json")
    assert (gone.code, gone.out) == (1, "")
    assert json.loads(gone.err)["type"].endswith(":unknown-credential")


def test_json_on_success_is_one_document_and_no_notes(keys: Cli) -> None:
    done = keys("set", "claude", "--json", stdin=VALUE)
    assert done.json["provider"] == "claude"
    assert done.err == ""
    assert VALUE not in done.out
    assert keys("remove", "--all", "--json").json == {"removed": True}
    assert keys("remove", "--all", "--json").json == {"removed": False}


@pytest.mark.parametrize(
    "arguments",
    [
        ("claude", VALUE),
        ("claude", "--value", VALUE),
        ("claude", f"--value={VALUE}"),
        ("claude", f"-{VALUE}"),
        ("claude", "--", VALUE),
        ("claude", VALUE, "--json"),
        (f"--key={VALUE}", "claude"),
    ],
)
def test_a_value_on_the_command_line_is_refused_and_not_shown(
    arguments: tuple[str, ...], keys: Cli, home: Path
) -> None:
    done = keys("set", *arguments, stdin="another")
    assert done.code == 2
    assert "never given on the command line" in done.err
    assert VALUE not in done.out + done.err
    assert not (home / "groove-trio").exists()


BAD_KEYS = ["", "\n", " x", "x ", "a\nb", "ä", "x" * 8193, f"{VALUE}\n\n", f"{VALUE}\0"]


@pytest.mark.parametrize("value", BAD_KEYS, ids=range(len(BAD_KEYS)))
def test_what_cannot_be_a_key_is_refused_and_not_shown(value: str, keys: Cli, home: Path) -> None:
    done = keys("set", "claude", stdin=value)
    assert done.code == 2
    assert "printable ASCII" in done.err
    assert VALUE not in done.out + done.err
    assert not (home / "groove-trio").exists()


def test_wrong_calls_are_refused(keys: Cli) -> None:
    assert keys("set", "SK-Key", stdin=VALUE).code == 2
    assert keys("set", "demo", stdin=VALUE).code == 2
    assert keys("remove").code == 2
    assert keys("remove", "claude", "--all").code == 2
    assert keys("set", "claude", "--variable", "A=B", stdin=VALUE).code == 2
    assert keys("rebind").code == 1


def test_the_prompt_does_not_echo(command: list[str], home: Path, project: Path) -> None:
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [*command, "credentials", "set", "claude"],
        cwd=project,
        env={**os.environ, "XDG_CONFIG_HOME": str(home)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""
    typed = False
    while True:
        assert select.select([ours], [], [], 60)[0], seen
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # EIO: the other end is closed
            break
        seen += chunk
        if not typed and b"Key of claude: " in seen:
            os.write(ours, VALUE.encode() + b"\n")
            typed = True
    os.close(ours)
    assert child.wait(60) == 0, seen
    assert VALUE.encode() not in seen
    assert stored(home).reveal("claude")[1].reveal() == VALUE


def test_a_moved_home_is_told_and_rebound(keys: Cli, home: Path, tmp_path: Path) -> None:
    keys("set", "claude", stdin=VALUE)
    before = this_machine().home
    moved = {"HOME": str(tmp_path)}
    refused = keys("set", "codex", stdin="x", **moved)
    assert refused.code == 3
    assert "another home directory" in refused.err
    assert "credentials rebind --old-home VALUE" in refused.err
    assert keys("list", **moved).code == 0
    wrong = keys("rebind", "--old-home", "/home/wrong", **moved)
    assert (wrong.code, wrong.out) == (3, "")
    assert "do not fit either" in wrong.err
    done = keys("rebind", "--old-home", before, **moved)
    assert (done.code, done.out) == (0, "The keys of claude belong to this machine now\n")
    assert keys("set", "codex", stdin="x", **moved).code == 0
    assert keys("set", "codex", stdin="x").code == 3
    (claude, codex) = keys("rebind", "--old-home", str(tmp_path), "--json").json
    assert (claude["provider"], codex["provider"]) == ("claude", "codex")
    assert claude["sealed"] > claude["set"]
    assert stored(home).reveal("claude")[1].reveal() == VALUE


def test_what_is_broken_is_told_and_removed(keys: Cli, home: Path) -> None:
    keys("set", "claude", stdin=VALUE)
    path = home / "groove-trio" / "credentials.json"
    path.write_bytes(path.read_bytes()[:-2])
    for arguments in (("list",), ("set", "claude"), ("remove", "claude"), ("rebind",)):
        done = keys(*arguments, stdin=VALUE)
        assert (done.code, done.out) == (3, "")
        assert "remove --all" in done.err
    path.chmod(0o666)
    assert "0666" in keys("list").err
    assert keys("remove", "--all").out == "Removed all keys\n"
    assert keys("set", "claude", stdin=VALUE).code == 0


def test_with_a_daemon_it_is_on_record(daemon: Any) -> None:
    done = daemon("credentials", "set", "claude", stdin=VALUE)
    assert (done.code, done.err) == (
        0,
        "groove-trio: no provider here takes a key by this name; it waits for one that does\n",
    )
    assert [each["provider"] for each in daemon("credentials", "list", "--json").json] == ["claude"]
    refused = daemon("credentials", "set", "demo", stdin=VALUE)
    assert (refused.code, refused.out) == (2, "")
    assert "takes no key" in refused.err
    assert daemon("credentials", "remove", "claude").code == 0
    log = daemon("audit", "--json", "-n", "0")
    found = [each for each in log.lines if each["action"].startswith("credential.")]
    assert [(each["action"], each["actor"]) for each in found] == [
        ("credential.set", "owner"),
        ("credential.remove", "owner"),
    ]
    assert VALUE not in log.out


def test_an_agent_gets_nothing_through_the_command_line(daemon: Any) -> None:
    code = (
        "import subprocess, sys\n"
        "for verb in (['list'], ['set', 'claude'], ['remove', 'claude']):\n"
        "    done = subprocess.run([sys.executable, '-m', 'groove_trio', 'credentials', *verb],\n"
        "        input='sk-x', capture_output=True, text=True)\n"
        "    print(done.returncode, done.stdout or done.stderr, flush=True)\n"
    )
    root = Path(__file__).parents[2]
    done = daemon(
        "spawn", "--name", "asker", "--read-only", "--env", f"PYTHONPATH={root}", "--json",
        "--", sys.executable, "-c", code,
    )  # fmt: skip
    assert done.code == 0, done.err
    lines = daemon("logs", "-f", "asker").out.splitlines()
    told = [line for line in lines if line and not line.startswith(" ")]
    assert [line.split()[0] for line in told] == ["3", "3", "3"], lines
    assert all("may not do this" in line for line in told)


def test_each_ingredient_has_its_option(cli: Cli) -> None:
    told = cli("credentials", "rebind", "--help").out
    for name in INGREDIENTS:
        assert f"--old-{name.replace('_', '-')}" in told
