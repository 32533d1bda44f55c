"""A groove with one agent for each containment level, and what its program met at the edges."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import pickle
import platform
import re
import runpy
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

import groove_trio
from groove_trio import AgentSpec, Config, Groove, open_groove
from groove_trio.shell import gate
from groove_trio.testing import ASIDE, lines_of, wait_for_line, wait_for_state
from groove_trio.words.agents import AgentView, Containment

HERE = Path(__file__).parent
LEVELS: tuple[Containment, ...] = ("gate", "wall", "hooks")
ENDED = ("completed", "failed", "stopped", "parked")
RUN_S = 60
SECRET = "-----BEGIN SECRET-----"

Told = dict[str, Any]


def listed(module: str, world: Told | None = None) -> list[tuple[str, str]]:
    """The attempts of a module: names and ways."""
    before = list(sys.path)
    sys.path.insert(0, str(HERE))
    try:
        attacker = runpy.run_path(str(HERE / "attacker.py"), run_name="attacker")
        holder = type(sys)("attacker")
        vars(holder).update(attacker)
        attacker["WORLD"].update(world or {"listing": True})
        sys.modules["attacker"] = holder
        runpy.run_path(str(HERE / f"{module}.py"), run_name=module)
    finally:
        sys.path[:] = before
        sys.modules.pop("attacker", None)
    return [(name, way) for name, (_, ways) in attacker["ATTEMPTS"].items() for way in ways]


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@dataclass
class Fared:
    """How the attempts of one module went at one level.

    Attributes:
        told: What each said, by name and way.
        before: What was outside of the scope before, by attempt.
        after: The same afterwards.
        records: The audit log.
        heard: What came to the sockets that listen outside.
        world: What the attacker knew.
        lines: All that its program wrote.
        descriptors: How many more the daemon had open afterwards.
    """

    told: dict[tuple[str, str], Told] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    records: list[Told] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    world: Told = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    descriptors: int = 0

    def on_record(self, name: str) -> bool:
        """Whether something of an attempt was denied, to whatever process of it."""
        place = f"docs/{slug(name)}"
        return bool(self.denials(name, "out")) or any(
            record["action"] == "knock.denied" and place in record["detail"]["path"]
            for record in self.records
        )

    def denials(self, name: str, way: str) -> list[Told]:
        """What the audit log has against an attempt."""
        pid = self.told[name, way]["pid"]
        return [
            record
            for record in self.records
            if record["action"] in {"knock.denied", "gate.refuse"}
            and record["detail"].get("pid") == pid
        ]


def furnish(directory: Path) -> None:
    """What each attempt finds; a socket that listens, too."""
    directory.mkdir(parents=True)
    for name in ("file", "other"):
        (directory / name).write_text(f"the {name} as it was\n")
        (directory / name).chmod(0o644)
    os.setxattr(directory / "file", "user.mark", b"x")
    (directory / "link").symlink_to("file")
    (directory / "empty").mkdir()
    (directory / "full").mkdir()
    (directory / "full/inner").write_text("inner\n")


def seen(directory: Path) -> dict[str, Any]:
    """All that can be told of a tree, but for when it was read."""
    found: dict[str, Any] = {}
    for place, directories, files in os.walk(directory):
        for name in (".", *directories, *files):
            path = Path(place, name)
            told = path.lstat()
            content: Any = None
            if stat.S_ISREG(told.st_mode):
                content = (hashlib.sha256(path.read_bytes()).hexdigest(), flags_of(path))
            elif stat.S_ISLNK(told.st_mode):
                content = os.readlink(path)
            marks = {
                each: os.getxattr(path, each, follow_symlinks=False)
                for each in os.listxattr(path, follow_symlinks=False)
            }
            found[str(path.relative_to(directory))] = (
                oct(told.st_mode),
                told.st_uid,
                told.st_gid,
                told.st_nlink,
                told.st_ino,
                told.st_size if content is not None else 0,
                told.st_mtime_ns,
                content,
                marks,
            )
    return found


def flags_of(path: Path) -> bytes:
    """Its flags, such as append-only, where the file system has any."""
    with path.open("rb") as file, contextlib.suppress(OSError):
        return fcntl.ioctl(file, 0x80086601, bytes(8))  # FS_IOC_GETFLAGS
    return b""


class Outside:
    """Sockets that listen outside of every scope; what reaches them is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._open: list[tuple[str, socket.socket]] = []

    def listen(self, label: str, address: str | bytes, kind: int = socket.SOCK_STREAM) -> None:
        mine = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
        self._open.append((label, mine))
        if isinstance(address, str):  # such names may be longer than a socket's may
            above = os.open(os.path.dirname(address), os.O_PATH)
            mine.bind(f"/proc/self/fd/{above}/{os.path.basename(address)}")
            os.close(above)
        else:
            mine.bind(address)
        if kind != socket.SOCK_DGRAM:
            mine.listen()

    def close(self) -> list[str]:
        for label, mine in self._open:
            with contextlib.suppress(BlockingIOError):
                if mine.type == socket.SOCK_DGRAM:
                    mine.recv(100)
                else:
                    mine.accept()[0].close()
                self.heard.append(label)
            mine.close()
        return self.heard


class Memory:
    """Pieces of memory that somebody shares: one by System V's means, one by POSIX's."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.key = 0x67000000 + os.getpid()
        self.path = f"/dev/shm/groove-escape-{os.getpid()}"
        Path(self.path).write_text("as it was\n", encoding="utf-8")
        self._id = self._libc.shmget(self.key, 4096, 0o1600)  # IPC_CREAT

    def close(self) -> None:
        Path(self.path).unlink(missing_ok=True)
        self._libc.shmctl(self._id, 0, None)  # IPC_RMID


def interpreter() -> list[str]:
    return [sys.executable, "-S", "-B"]


@contextlib.contextmanager
def at_home(home: Path) -> Iterator[None]:
    """Has the daemon take a directory for the user's home."""
    before = os.environ.get("HOME")
    os.environ["HOME"] = str(home)
    try:
        yield
    finally:
        if before is None:
            del os.environ["HOME"]
        else:
            os.environ["HOME"] = before


class Stage:
    """A project, a home and a world around it, for the attempts of one module."""

    def __init__(self, root: Path, module: str) -> None:
        self.root = root.resolve()
        self.module = module
        self.project = self.root / "project"
        self.home = self.root / "home"
        self.fared: dict[str, Fared] = {level: Fared() for level in LEVELS}
        self.attempts = listed(module)
        self.privileged = False

    def build(self) -> None:
        self.home.mkdir(parents=True)
        for name in (".ssh/id_ed25519", ".config/groove-trio/seed"):
            (self.home / name).parent.mkdir(parents=True)
            (self.home / name).write_text(SECRET)
        for level in LEVELS:
            for name, way in self.attempts:
                if way != "bare":
                    furnish(self.project / level / "src" / f"{slug(name)}.{way}")
                if way == "out":
                    furnish(self.project / level / "docs" / slug(name))
            (self.project / level / "at/cron").mkdir(parents=True)
            (self.project / level / "src/asked").mkdir(parents=True)
        (self.project / "victim").mkdir()

    def at(self, level: str) -> Fared:
        """How it went at a level; skips where the kernel has not got it."""
        fared = self.fared[level]
        if not fared.world:
            pytest.skip(f"NO LEVEL {level} in this kernel")
        return fared

    async def run(self) -> None:
        with at_home(self.home):
            async with open_groove(Config(project=self.project, port=0)) as groove:
                victim = await groove.spawn(
                    AgentSpec(
                        role="victim",
                        name="victim",
                        scope=["victim/**"],
                        containment=strongest(groove),
                        argv=[*interpreter(), str(HERE / "victim.py"), str(self.project)],
                    )
                )
                await wait_for_line(groove, victim.id, "up")
                for level in LEVELS:
                    if level in groove.status().containment:
                        await self._attack(groove, level, groove.agent(victim.id))
                assert groove.agent(victim.id).state == "running", "the other agent was ended"
                await groove.stop(victim.id)

    async def _attack(self, groove: Groove, level: Containment, victim: AgentView) -> None:
        fared, outside, terminal = self.fared[level], Outside(), os.openpty()
        shared = Memory()
        place = self.project / level
        for name, way in self.attempts:
            if name.startswith("connect"):
                at = f"docs/{slug(name)}" if way == "out" else f"src/{slug(name)}.{way}"
                outside.listen(f"{way} {name}", f"{place}/{at}/socket")
        for label in ("bus", "docker", "tmux", "systemd"):
            outside.listen(label, str(place / "at" / label))
        outside.listen("datagrams", str(place / "at/datagrams"), socket.SOCK_DGRAM)
        abstract = f"groove-escape-{os.getpid()}-{level}-{self.module}"
        outside.listen("abstract", b"\0" + abstract.encode())
        fared.world = {
            "level": level,
            "inside": str(place / "src"),
            "outside": str(place / "docs"),
            "at": str(place / "at"),
            "abstract": abstract,
            "home": str(self.home),
            "project": str(self.project),
            "daemon": os.getpid(),
            "port": groove.port,
            "victim": victim.pid,
            "victim_id": victim.id,
            "asked": str(place / "src/asked"),
            "told": str(self.project / "victim"),
            "audit": str(max((self.project / ".groove/audit").iterdir())),
            "terminal": os.ttyname(terminal[1]),
            "key": shared.key,
            "shared": shared.path,
            "secret": SECRET,
        }
        os.set_blocking(terminal[0], False)
        world = self.root / f"world-{level}.json"
        world.write_text(json.dumps(fared.world))
        flipper = self._flip(level)
        fared.before = self._outside(level)
        descriptors = len(os.listdir("/proc/self/fd"))
        view = await groove.spawn(
            AgentSpec(
                role="attacker",
                name=f"attacker-{level}",
                cwd=level,
                scope=[f"{level}/src/**"],
                containment=level,
                argv=[*interpreter(), str(HERE / "attacker.py"), str(world), self.module],
            )
        )
        with trio.fail_after(RUN_S):
            await wait_for_state(groove, view.id, *ENDED)
        if flipper is not None:
            flipper.kill()
            flipper.communicate()
        fared.lines = await lines_of(groove, view.id)
        fared.after = self._outside(level)
        fared.descriptors = len(os.listdir("/proc/self/fd")) - descriptors
        fared.heard = outside.close()
        with contextlib.suppress(BlockingIOError):
            if os.read(terminal[0], 100):
                fared.heard.append("terminal")
        shared.close()
        os.close(terminal[0])
        os.close(terminal[1])
        segments = sorted((self.project / ".groove/audit").iterdir())
        fared.records = [
            json.loads(line) for each in segments for line in each.read_bytes().splitlines()
        ]
        for line in fared.lines:
            if line.startswith("{"):
                told = json.loads(line)
                fared.told[told["name"], told["way"]] = told

    def _flip(self, level: str) -> subprocess.Popen[bytes] | None:
        """Starts the process that turns names about, where there is a race for it."""
        place = self.project / level
        names = [slug(name) for name, way in self.attempts if name.startswith("races: a link")]
        names += [slug(name) for name, _ in self.attempts if name.startswith("races: a directory")]
        if not names:
            return None
        pairs = [
            path for name in names for path in (f"{place}/src/{name}.out", f"{place}/docs/{name}")
        ]
        flipper = subprocess.Popen(
            [*interpreter(), str(HERE / "flipper.py"), f"{place}/src/still", *pairs],
            stdout=subprocess.PIPE,
        )
        assert flipper.stdout is not None
        assert flipper.stdout.readline() == b"turning\n"
        return flipper

    def _outside(self, level: str) -> dict[str, Any]:
        docs = self.project / level / "docs"
        told = {name: seen(docs / slug(name)) for name, way in self.attempts if way == "out"}
        return {**told, "home": seen(self.home)}


def strongest(groove: Groove) -> Containment:
    return groove.status().containment[0]


def staged(root: Path, module: str, user: int | None) -> Stage:
    """A stage whose attempts were made."""
    if platform.machine() != "x86_64":
        pytest.skip("NOT x86_64: calls are made by number, and nothing was tried")
    stage = Stage(root, module)
    if user is None:
        stage.privileged = os.geteuid() == 0
        stage.build()
        trio.run(stage.run, strict_exception_groups=True)
        return stage
    if os.geteuid() != 0:
        pytest.skip("NOT ROOT: all of it was tried as an ordinary user")
    os.chown(root, user, user)
    _as_user(user, f"play({str(root)!r}, {module!r})")
    told = pickle.loads((root / "fared").read_bytes())
    stage.fared = {level: Fared(**fields) for level, fields in told.items()}
    return stage


def play(root: str, module: str) -> None:
    """Makes the attempts of a module in a process of their own, and leaves how they went."""
    stage = Stage(Path(root), module)
    stage.build()
    trio.run(stage.run, strict_exception_groups=True)
    with open(f"{root}/fared", "wb") as file:
        pickle.dump({level: vars(fared) for level, fared in stage.fared.items()}, file)


def _as_user(user: int, code: str) -> None:
    """Runs code of this file as somebody else, with an interpreter that he may run."""
    places = [str(Path(groove_trio.__file__).parents[1]), str(Path(trio.__file__).parents[1])]
    script = (
        f"import sys; sys.path[:0] = {[*places, str(HERE)]!r}; import conftest; conftest.{code}"
    )
    named = f"python{sys.version_info.major}.{sys.version_info.minor}"
    who: dict[str, Any] = {"user": user, "group": user, "extra_groups": []}
    for python in (sys.executable, f"/usr/bin/{named}", f"/usr/local/bin/{named}"):
        try:
            subprocess.run([python, "-I", "-c", "pass"], check=True, **who)
        except OSError:
            continue
        with tempfile.TemporaryDirectory(prefix="groove-config-", dir=ASIDE) as config:
            os.chown(config, user, user)
            told = subprocess.run(
                [python, "-B", "-c", script],
                cwd="/",
                env={**os.environ, "XDG_CONFIG_HOME": config},
                capture_output=True,
                text=True,
                check=False,
                **who,
            )
        assert told.returncode == 0, told.stderr
        return
    pytest.skip("NO INTERPRETER for an ordinary user: not tried as one")


@pytest.fixture(scope="module")
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """How the attempts of the test module's `ATTEMPTS` went; its path is short, as sockets' are."""
    module = request.module
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="esc-", dir=getattr(module, "PLACE", None)) as name,
    ):
        if hasattr(module, "DENIALS_S"):
            patch.setattr(gate, "DENIALS_S", module.DENIALS_S)
        user = getattr(request, "param", None)
        yield staged(Path(name), module.ATTEMPTS, user)


@pytest.fixture
def names_of() -> Callable[[str], set[str]]:
    """The names of a module's attempts."""
    return lambda module: {name for name, _ in listed(module)}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test for every attempt if it takes ``name``, at every level if it takes ``level``.

    ``outside`` is the name of every attempt to leave the scope.
    """
    users = getattr(metafunc.module, "USERS", None)
    if users and "stage" in metafunc.fixturenames:
        ids = [f"user {user}" if user else "self" for user in users]
        metafunc.parametrize("stage", users, indirect=True, ids=ids, scope="module")
    own = {mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")}
    if "name" in metafunc.fixturenames:
        metafunc.parametrize(("name", "way"), listed(metafunc.module.ATTEMPTS))
    if "outside" in metafunc.fixturenames:
        names = [name for name, way in listed(metafunc.module.ATTEMPTS) if way == "out"]
        metafunc.parametrize("outside", names)
    if "level" in metafunc.fixturenames and "level" not in own:
        metafunc.parametrize("level", LEVELS)
