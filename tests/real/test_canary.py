"""A key is followed through a real daemon: it is where it is needed, and nowhere else."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from groove_trio import AgentSpec, connect_groove, errors
from groove_trio.api.routes import ROUTES
from groove_trio.client import Client
from groove_trio.client.find import parse_url
from groove_trio.client.link import Link
from groove_trio.shell.kernel import architecture, landlock_version
from groove_trio.shell.spawning import forbid_core_dumps
from groove_trio.words.agents import AgentView, Containment

HOLDER = """
    import hashlib, os, sys
    print("key", hashlib.sha256(os.environ["KEYED_API_KEY"].encode()).hexdigest(), flush=True)
    sys.stdin.read()
"""
SEARCHER = """
    import ctypes, errno, glob, hashlib, os, sys

    holder, daemon, config, wanted = sys.argv[1:5]

    def attempt(what, path):
        try:
            with open(path, "rb") as file:
                file.seek(0 if "mem" not in path else 4096)
                file.read(16)
        except OSError as fault:
            print(what, errno.errorcode[fault.errno], flush=True)
        else:
            print(what, "READ", flush=True)

    for name in ("environ", "mem", "maps", "auxv"):
        attempt(f"holder {name}", f"/proc/{holder}/{name}")
        attempt(f"daemon {name}", f"/proc/{daemon}/{name}")
    attempt("thread environ", f"/proc/{holder}/task/{holder}/environ")
    for name in ("seed", "credentials.json"):
        attempt(name, os.path.join(config, name))
    libc = ctypes.CDLL(None, use_errno=True)
    for what, pid in (("holder", holder), ("daemon", daemon)):
        failed = libc.ptrace(16, int(pid), 0, 0)  # PTRACE_ATTACH
        how = errno.errorcode[ctypes.get_errno()] if failed else "ATTACHED"
        print(what, "ptrace", how, flush=True)
    found = 0
    for path in [*glob.glob("/proc/[0-9]*/environ"), "/proc/self/environ"]:
        try:
            with open(path, "rb") as file:
                entries = file.read().split(b"\\0")
        except OSError:
            continue
        found += sum(
            hashlib.sha256(each.partition(b"=")[2]).hexdigest() == wanted for each in entries
        )
    print("found", found, flush=True)
"""


def forms_of(value: str) -> list[bytes]:
    """How a value could stand somewhere: as it is, in hexadecimal, in base64 at any offset."""
    data = value.encode()
    encoded = [base64.b64encode(b"\0" * lead + data) for lead in range(3)]
    # The first and last few characters depend on what is beside it.
    inner = [text[4:-4] for text in encoded]
    urlsafe = [text.replace(b"+", b"-").replace(b"/", b"_") for text in inner]
    return [data, data.hex().encode(), data.hex().upper().encode(), data[::-1], *inner, *urlsafe]


class Followed:
    """A daemon of its own, and all that was heard of it."""

    def __init__(
        self, project: Path, config: Path, daemon: subprocess.Popen[str], url: str
    ) -> None:
        self.project = project
        self.config = config
        self.daemon = daemon
        self.url = url
        self.value = f"sk-canary-{secrets.token_hex(20)}"
        self.heard: list[tuple[str, bytes]] = []

    def cli(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "groove_trio", *arguments],
            cwd=self.project,
            env={**os.environ, "XDG_CONFIG_HOME": str(self.config)},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        self.heard.append((f"cli {arguments}", (done.stdout + done.stderr).encode()))
        return done

    def where(self) -> list[str]:
        """Where the value stands, in whatever form."""
        files = [
            path
            for root in (self.project.parent, self.config)
            for path in root.rglob("*")
            if path.is_file() and not path.is_symlink()
        ]
        pieces = [*self.heard, *((str(path), path.read_bytes()) for path in files)]
        forms = forms_of(self.value)
        return [name for name, data in pieces if any(form in data for form in forms)]


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[Followed]:
    project = tmp_path / "project"
    (project / "src").mkdir(parents=True)
    # In /var/tmp: what is new beside a hidden path can't be read by agents, and tests use /tmp.
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as config,
        (tmp_path / "daemon.log").open("w") as log,
    ):
        daemon = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("keyed_daemon.py")), str(project)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "XDG_CONFIG_HOME": config},
        )
        assert daemon.stdout is not None
        with daemon.stdout:
            url = daemon.stdout.readline().strip()
            try:
                yield Followed(project.resolve(), Path(config), daemon, url)
            finally:
                daemon.send_signal(signal.SIGKILL)
                daemon.wait()


@asynccontextmanager
async def listening(house: Followed) -> AsyncIterator[Client]:
    """The typed client; meanwhile, all events are heard."""

    async def listen(client: Client, task_status: trio.TaskStatus[None]) -> None:
        async with client.events() as events:
            task_status.started()
            async for event in events:
                house.heard.append(("feed", msgspec.json.encode(event)))

    async with (
        connect_groove(house.url) as client,
        connect_groove(house.url) as ear,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(listen, ear)
        yield client
        nursery.cancel_scope.cancel()


def program(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-B", "-c", textwrap.dedent(code), *arguments]


async def lines_of(client: Client, agent: str, last: str) -> list[str]:
    """The agent's lines up to one that begins with `last`."""
    lines: list[str] = []
    async with client.follow_output(agent) as following:
        async for line in following:
            lines.append(line.text)
            if line.text.startswith(last):
                return lines
    raise AssertionError(f"no {last!r} in {lines}")


async def held(client: Client, level: Containment) -> AgentView:
    """An agent that was handed the key, and waits."""
    spec = AgentSpec(
        role="holder", provider="keyed", argv=program(HOLDER), scope=["src/**"],
        containment=level, interactive=True,
    )  # fmt: skip
    return await client.spawn(spec)


async def get_everything(house: Followed, client: Client) -> None:
    """Asks every GET route, for every agent where one is named."""
    agents = [each.id for each in await client.agents()]
    link = Link(lambda: parse_url(house.url))
    for route in ROUTES:
        if route.method != "GET":
            continue
        for agent in agents if "{id}" in route.path else [""]:
            query = "?path=src/a" if route.path == "/api/explain" else ""
            answer = await link.call("GET", route.path.replace("{id}", agent) + query)
            assert answer.status == 200, (route.path, answer.body)
            house.heard.append((f"GET {route.path}", answer.body))
    await link.aclose()


def level_here(level: Containment) -> None:
    if level != "hooks" and landlock_version() == 0:
        pytest.skip("NO LANDLOCK: not tested")
    if level == "gate" and architecture() is None:
        pytest.skip("NO FILTER for this machine: not tested")


@pytest.mark.parametrize("level", ["gate", "wall"])
async def test_a_key_is_where_it_is_needed_and_nowhere_else(
    followed: Followed, level: Containment
) -> None:
    level_here(level)
    house = followed
    done = await trio.to_thread.run_sync(
        lambda: house.cli("credentials", "set", "keyed", stdin=house.value + "\n")
    )
    assert done.returncode == 0, done.stderr
    wanted = hashlib.sha256(house.value.encode()).hexdigest()
    async with listening(house) as client:
        holder = await held(client, level)
        assert await lines_of(client, holder.id, "key") == [f"key {wanted}"]
        # Root here, or its own user: whoever is not in a sandbox may look.
        environ = Path(f"/proc/{holder.pid}/environ").read_bytes()
        assert f"KEYED_API_KEY={house.value}".encode() in environ.split(b"\0")
        seeker = await client.spawn(
            AgentSpec(
                role="seeker", scope=[], containment=level,
                argv=program(
                    SEARCHER, str(holder.pid), str(house.daemon.pid),
                    str(house.config / "groove-trio"), wanted,
                ),
            )
        )  # fmt: skip
        told = await lines_of(client, seeker.id, "found")
        *attempts, found = told
        assert found == "found 0"
        assert len(attempts) == 13
        assert all(each.split()[-1] in {"EACCES", "EPERM"} for each in attempts), attempts
        await fail_in_every_way(client)
        await get_everything(house, client)
        with pytest.raises(errors.UnknownCredential) as refused:
            await client.remove_credential("nobody")
        house.heard.append(("error", repr(refused.value.fields).encode()))
    for arguments in (("list",), ("list", "--json"), ("set", "keyed", "sk-other")):
        await trio.to_thread.run_sync(lambda each=arguments: house.cli("credentials", *each))
    assert house.where() == []
    assert any(name == "feed" for name, _ in house.heard)
    actions = [json.loads(line)["action"] for line in records(house)]
    assert actions.count("credential.set") == 1
    assert actions.count("credential.use") >= 2
    # The search finds what is there to be found.
    (house.project / "leak").write_bytes(b"x" + base64.b64encode(b"ab" + house.value.encode()))
    assert house.where() == [str(house.project / "leak")]


def records(house: Followed) -> list[bytes]:
    segments = sorted((house.project / ".groove/audit").iterdir())
    return [line for each in segments for line in each.read_bytes().splitlines()]


async def fail_in_every_way(client: Client) -> None:
    """Starts that fail after the key was opened, and one that fails again and again."""
    for fields in (
        {"argv": ["/no/such/program"]},
        {"argv": ["src"]},
        {"argv": [sys.executable, "x" * 131_072]},
        {"argv": ["true"], "env": {f"V{n}": "x" * 131_000 for n in range(20)}},
    ):
        with pytest.raises(errors.GrooveError):
            await client.spawn(msgspec.convert(
                {"role": "fails", "provider": "keyed", "scope": [], **fields}, AgentSpec
            ))  # fmt: skip
    again = {"mode": "on-failure", "firstS": 0.01, "maxRestarts": 1}
    spec = {"role": "again", "provider": "keyed", "scope": [], "argv": ["false"], "restart": again}
    view = await client.spawn(msgspec.convert(spec, AgentSpec))
    async for _ in client.follow_output(view.id):
        pass


async def test_a_spec_that_sets_the_variable_gets_no_stored_key(followed: Followed) -> None:
    house = followed
    await trio.to_thread.run_sync(
        lambda: house.cli("credentials", "set", "keyed", stdin=house.value)
    )
    code = "import os; print('got', os.environ['KEYED_API_KEY'], flush=True)"
    async with connect_groove(house.url) as client:
        own = await client.spawn(
            AgentSpec(
                role="r", provider="keyed", scope=[], argv=program(code),
                env={"KEYED_API_KEY": "its own"},
            )
        )  # fmt: skip
        assert await lines_of(client, own.id, "got") == ["got its own"]
    assert not [line for line in records(house) if b"credential.use" in line]


async def test_without_what_opens_it_no_program_starts(followed: Followed) -> None:
    house = followed
    await trio.to_thread.run_sync(
        lambda: house.cli("credentials", "set", "keyed", stdin=house.value)
    )
    path = house.config / "groove-trio" / "credentials.json"
    whole = path.read_bytes()
    async with listening(house) as client:
        for spoilt in (whole[:-9], whole.replace(b"keyed", b"other"), b""):
            path.write_bytes(spoilt)
            with pytest.raises(errors.SealBroken):
                await held(client, "hooks")
        path.write_bytes(whole)
        path.chmod(0o644)
        with pytest.raises(errors.VaultUnavailable, match="0644"):
            await held(client, "hooks")
        path.chmod(0o600)
        holder = await held(client, "hooks")
        assert holder.state == "running"
        await get_everything(house, client)
    assert house.where() == []


def test_no_core_is_dumped(tmp_path: Path) -> None:
    code = "import os; {0}; os.chdir({1!r}); os.abort()"
    forbid = f"import {forbid_core_dumps.__module__} as m; m.{forbid_core_dumps.__name__}()"
    for first, dumps in ((forbid, False), ("import resource as r; r.setrlimit(4, (-1, -1))", None)):
        died = subprocess.Popen(
            [sys.executable, "-c", code.format(first, str(tmp_path))], stderr=subprocess.DEVNULL
        )
        _, status = os.waitpid(died.pid, 0)
        died.returncode = 0
        if dumps is None:
            if not os.WCOREDUMP(status):
                pytest.skip("this machine dumps no core at all, so that none is says nothing")
        else:
            assert os.WTERMSIG(status) == signal.SIGABRT
            assert not os.WCOREDUMP(status)
            assert os.listdir(tmp_path) == []
