"""Programs drawn by lot, behind a gate and against a model of the scope language on a copy.

The same results, the same denials, and byte for byte the same tree. A failure names its seed:
`GATE_MODEL_SEED=n` runs that program alone, `GATE_MODEL_S=600` goes on for ten minutes.
"""

from __future__ import annotations

import json
import os
import random
import stat
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import trio

import groove_trio
from groove_trio.rules import bpf
from groove_trio.rules.scopes import Scope
from groove_trio.shell import gate
from groove_trio.shell.audit import open_audit
from groove_trio.shell.broker import Broker
from groove_trio.shell.census import Census
from groove_trio.shell.gates import Gates
from groove_trio.shell.kernel import architecture, landlock_version
from groove_trio.shell.process import Tree
from groove_trio.shell.sandbox import Confinement, open_confined
from groove_trio.shell.wall import build_wall
from groove_trio.words.actors import OWNER
from groove_trio.words.base import AgentId

AGENT = AgentId("0badcafe")
TMP = f".groove/agents/{AGENT}/tmp"
HERE = Path(__file__).parent
PROGRAMS = 110  # for each of two scopes
SCOPES = {
    "narrow": ["src/**", "docs/*.md", "lib/{a,b}/**"],
    "wide": ["**"],
}
ACTIONS = Path("/proc/sys/kernel/seccomp/actions_avail")
FIRST_SLOT = 40  # as in filework.py
LONG_AGO = 10**18  # whoever sets a time sets an earlier one

pytestmark = [
    pytest.mark.skipif(
        not ACTIONS.exists() or "user_notif" not in ACTIONS.read_text(),
        reason="NO USER NOTIFICATION: not tested",
    ),
    pytest.mark.skipif(landlock_version() < 3, reason="NO LANDLOCK 3: not tested"),
    pytest.mark.skipif(architecture() is None, reason="NO FILTER for this machine: not tested"),
]

# The tree that each program finds

DIRECTORIES = ["src", "src/deep", "src/deep/er", "docs", "docs/sub", "lib", "lib/a", "lib/c",
    "src/.git", "src/.git/hooks", "src/empty", "../outside"]  # fmt: skip
FILES = ["src/x", "src/deep/y", "src/deep/er/z", "docs/a.md", "docs/b.txt", "docs/sub/s.md",
    "lib/a/f", "lib/c/f", "top", "src/.git/config", "src/.git/HEAD", "../outside/o",
    f"{TMP}/t", "src/odd (deleted)", "docs/odd (deleted)"]  # fmt: skip
LINKS = {
    "src/to-x": "x",
    "src/to-docs": "../docs",
    "src/to-outside": "{root}/../outside",
    "src/to-new": "fresh",
    "src/to-new-out": "../docs/fresh",
    "src/chain": "to-chain",
    "src/to-chain": "deep/../to-docs/a.md",
    "src/loop": "loop",
    "src/up": "..",
    "src/slash": "deep/",
    "docs/to-src": "{root}/src",
    "docs/to-y": "../src/deep/y",
    "top-link": "src/x",
    "lib/b": "../src",
    "src/to-hidden": "../.groove/seed",
    "src/to-tmp": f"../{TMP}",
}
HARD = {"src/hard": "src/x", "src/hard-out": "docs/b.txt"}
FIFOS = ["src/pipe", "docs/pipe"]
NEW = ["src/fresh", "src/deep/fresh", "docs/fresh", "docs/fresh.md", "lib/b/fresh", "lib/a/fresh",
    "fresh", "src/CLAUDE.md", "src/.envrc", "src/.git/hooks/pre-commit", "../outside/fresh",
    ".groove/fresh", f"{TMP}/fresh", f"{TMP}/dir", "src/fresh/in", "src/to-docs/fresh.md",
    "src/nät\n", "src/\udcff\udcfe", "src/" + "n" * 256, "src/" + "n" * 255, ".claude"]  # fmt: skip
ODD = ["", ".", "..", "/", "src/.", "src/..", "src/deep/..", ".groove", ".groove/seed",
    ".groove/agents", TMP, "/dev/null", "x", "y", "deep",
    "../top", "../src/x", "src/to-docs/../top", "src/up/docs/a.md", "./src//x",
    "src/x/../x", "m" * 4100, "er/z", "src/up/src/to-x"]  # fmt: skip
NAMES = [*DIRECTORIES, *FILES, *LINKS, *HARD, *FIFOS]


def build(root: Path) -> None:
    """Makes the tree anew; what Landlock knows by its inode stays."""
    hidden = {".groove", ".groove/agents", f".groove/agents/{AGENT}", TMP}
    for place in (root / ".groove", root / f".groove/agents/{AGENT}", root / TMP):
        place.mkdir(parents=True, exist_ok=True)
    for place in (root, root / "../outside", *(root / name for name in hidden)):
        with suppress(FileNotFoundError):
            place.chmod(0o755)
            for entry in os.scandir(place):
                if os.path.relpath(entry.path, root) in hidden:
                    continue
                _remove(entry.path)
    for name in DIRECTORIES:
        (root / name).mkdir(exist_ok=True)
    for name in (*FILES, ".groove/seed"):
        (root / name).write_text(f"in {name}\n")
    for name, target in LINKS.items():
        (root / name).symlink_to(target.replace("{root}", str(root)))
    for name, target in HARD.items():
        (root / name).hardlink_to(root / target)
    for name in FIFOS:
        os.mkfifo(root / name, 0o644)


def _remove(path: str) -> None:
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        return
    os.chmod(path, 0o700)
    for entry in os.scandir(path):
        _remove(entry.path)
    os.rmdir(path)


def picture(root: Path) -> dict[str, Any]:
    """All that can be told of a tree."""
    told: dict[str, Any] = {}
    _look(root.parent, root, told)
    return told


def _look(place: Path, root: Path, told: dict[str, Any]) -> None:
    for entry in os.scandir(place):
        found = os.lstat(entry.path)
        kind, mode = stat.S_IFMT(found.st_mode), stat.S_IMODE(found.st_mode)
        needed = {stat.S_IFREG: 0o600, stat.S_IFDIR: 0o700}.get(kind, 0)
        if mode & needed != needed:
            os.chmod(entry.path, mode | 0o700)
        content: object = None
        if kind == stat.S_IFLNK:
            content = os.readlink(entry.path).replace(str(root), "{root}")
        elif kind == stat.S_IFREG:
            content = Path(entry.path).read_bytes()
        attributes = {
            name: os.getxattr(entry.path, name, follow_symlinks=False)
            for name in os.listxattr(entry.path, follow_symlinks=False)
            if name.startswith("user.")
        }
        at = found.st_mtime_ns if found.st_mtime_ns < LONG_AGO else "now"
        links = found.st_nlink
        owner = found.st_uid, found.st_gid
        name = os.path.relpath(entry.path, root)
        told[name] = (oct(found.st_mode), content, attributes, at, links, owner)
        if kind == stat.S_IFDIR:
            _look(Path(entry.path), root, told)


# Programs

MODES = [0o644, 0o600, 0o755, 0o777, 0o4755, 0o2755, 0o1777, 0o400, 0o666, 0o7777]
ACCESS = [os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_RDWR]
FURTHER = [os.O_CREAT, os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_NOFOLLOW,
    os.O_DIRECTORY, os.O_CLOEXEC, os.O_NONBLOCK, os.O_SYNC, os.O_NOATIME]  # fmt: skip


class Author:
    """Writes one program; the same seed, the same program."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.kinds = sorted(name for name in dir(self) if name.startswith("make_"))
        self.often = ["make_open"] * 5 + ["make_rename"] * 2 + ["make_mkdir", "make_unlink"]

    def program(self) -> list[list[Any]]:
        count = self.draw.randint(30, 60)
        return [self.step(self.draw.choice(self.kinds + self.often)) for _ in range(count)]

    def step(self, kind: str) -> list[Any]:
        return [kind.removeprefix("make_"), *getattr(self, kind)()]

    def slot(self) -> int:
        return self.draw.randrange(4)

    def at(self) -> int | None:
        return self.slot() if self.draw.random() < 0.15 else None

    def path(self) -> str:
        pool = self.draw.choices([NAMES, NEW, ODD], [10, 6, 2])[0]
        name = self.draw.choice(pool)
        chance = self.draw.random()
        if chance < 0.1 and not name.startswith("/"):
            name = f"{{root}}/{name}"
        elif chance < 0.15:
            name = f"{name}/."
        elif chance < 0.25:
            name = name.rpartition("/")[2]
        slash = self.draw.random() < 0.12 and len(name) < 200  # too long is seen before a slash
        return f"{name}/" if slash else name

    def place(self) -> tuple[int | None, str]:
        return self.at(), self.path()

    def object(self) -> tuple[int | None, str]:
        """A place where something may be done to what is there."""
        if self.draw.random() < 0.03:
            return None, f"/proc/self/fd/{FIRST_SLOT + self.slot()}"
        return self.place()

    def time(self) -> int:
        return self.draw.randrange(10**17)

    def flag(self) -> bool:
        return self.draw.random() < 0.5

    def make_open(self) -> list[Any]:
        flags = self.draw.choices(ACCESS, [6, 6, 6, 1])[0]
        for flag in self.draw.sample(FURTHER, self.draw.choice([0, 1, 1, 2, 2, 3, 4])):
            flags |= flag
        if self.draw.random() < 0.02:
            flags |= os.O_TMPFILE
        if self.draw.random() < 0.02:
            flags |= os.O_PATH
        return [self.slot(), *self.object(), flags, self.draw.choice(MODES)]

    def make_opendir(self) -> list[Any]:
        name = self.draw.choice([*DIRECTORIES, "src/to-docs", "."])
        return [self.slot(), None, name, os.O_RDONLY | os.O_DIRECTORY, 0]

    def make_close(self) -> list[Any]:
        return [self.slot()]

    make_pread = make_close

    def make_write(self) -> list[Any]:
        return [self.slot(), "w" * self.draw.randrange(20)]

    def make_ftruncate(self) -> list[Any]:
        return [self.slot(), self.draw.choice([0, 1, 5, 100, -1])]

    def make_fchmod(self) -> list[Any]:
        return [self.slot(), self.draw.choice(MODES)]

    def make_futime(self) -> list[Any]:
        return [self.slot(), self.time()]

    def make_fsetxattr(self) -> list[Any]:
        return [self.slot(), *self.attribute()]

    def make_fremovexattr(self) -> list[Any]:
        return [self.slot(), "user.a"]

    def attribute(self) -> list[Any]:
        return [self.draw.choice(["user.a", "user.b"]), "v" * self.draw.randrange(9), self.slot()]

    def make_truncate(self) -> list[Any]:
        return [self.path(), self.draw.choice([0, 1, 5, 100, -1])]

    def make_mkdir(self) -> list[Any]:
        return [*self.place(), self.draw.choice(MODES)]

    def make_mknod(self) -> list[Any]:
        kind = self.draw.choice([stat.S_IFIFO, stat.S_IFIFO, stat.S_IFREG, stat.S_IFSOCK])
        return [*self.place(), self.draw.choice(MODES) | kind]

    def make_symlink(self) -> list[Any]:
        target = self.draw.choice([self.path(), "x", "../docs", "{root}/docs/a.md", "nowhere"])
        return [target, *self.place()]

    def make_unlink(self) -> list[Any]:
        return [*self.place()]

    make_rmdir = make_unlink

    def make_rename(self) -> list[Any]:
        # What is too long is seen before the other path is walked, and by the kernel after.
        places = (*self.place(), *self.place())
        short = [name if not isinstance(name, str) or len(name) < 200 else "x" for name in places]
        return [*short, self.draw.choice([0, 0, 0, 1, 2, 2, 3])]

    def make_link(self) -> list[Any]:
        return [*self.place(), *self.place(), self.flag()]

    def make_chmod(self) -> list[Any]:
        return [*self.object(), self.draw.choice(MODES)]

    def make_lchmod(self) -> list[Any]:
        return [*self.place(), self.draw.choice(MODES)]

    def make_utime(self) -> list[Any]:
        return [*self.object(), self.time(), self.flag()]

    def make_setxattr(self) -> list[Any]:
        return [self.object()[1], *self.attribute(), self.flag()]

    def make_removexattr(self) -> list[Any]:
        return [self.path(), "user.a", self.flag()]

    def make_umask(self) -> list[Any]:
        return [self.draw.choice([0, 0o022, 0o077, 0o002, 0o777])]

    def make_chdir(self) -> list[Any]:
        return [self.draw.choice([self.path(), "src", "docs", "{root}", "src/deep"])]

    def make_fchdir(self) -> list[Any]:
        return [self.slot()]


# Those who run them


class Talk:
    """A program a line, and its results a line."""

    def __init__(self, root: Path, write: Any, read: Any) -> None:
        self.root = root
        self._write = write
        self._read = read
        self._heard = b""

    async def run(self, steps: list[list[Any]]) -> Any:
        await self._write(json.dumps([str(self.root), steps]).encode() + b"\n")
        while b"\n" not in self._heard:
            more = await self._read()
            assert more, "it ended"
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return json.loads(line)


@asynccontextmanager
async def behind_a_gate(root: Path, patterns: list[str], audit: Path) -> AsyncIterator[Talk]:
    """One agent that runs programs, with everything real but the disk of the audit log."""
    wall = build_wall(
        level="gate",
        project=str(root),
        tmp=str(root / TMP),
        patterns=patterns,
        hidden=(),
        version=landlock_version(),
    )
    machine = architecture()
    assert machine is not None
    census = Census(project="/nowhere")
    async with open_audit(audit) as log, trio.open_nursery() as nursery:
        broker = Broker(root, log, lambda _: None, audit.parent / "leases", wanted=lambda: False)
        gates = Gates(broker, census, str(root / ".groove"))
        await nursery.start(broker.run)
        await broker.reserve(AGENT, "a", Scope(patterns), ".", OWNER)
        await nursery.start(gates.run)

        async def listening(_: Tree, listener: int) -> None:
            gates.open(AGENT, listener, str(root / TMP), ()).testing = False
            await trio.lowlevel.checkpoint()

        opened = await open_confined(
            argv=[sys.executable, "-I", "-S", "-B", str(HERE / "filework.py")],
            cwd=str(root),
            env={"PATH": os.environ["PATH"]},
            agent=AGENT,
            census=census,
            confinement=Confinement(wall.ruleset, bpf.program(machine, notify=True), notify=True),
            listening=listening,
        )
        tree = opened.tree
        async with tree:

            async def tell() -> None:  # what a program that broke has to say
                while said := await tree.receive("err"):
                    sys.stderr.write(said.decode(errors="replace"))

            nursery.start_soon(tell)
            yield Talk(root, tree.write, lambda: tree.receive("out"))
        broker.close()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def before_the_model(root: Path, patterns: list[str]) -> AsyncIterator[Talk]:
    argv = [sys.executable, "-B", str(HERE / "fileoracle.py"), str(root.parent), *patterns]
    path = os.pathsep.join([str(Path(groove_trio.__file__).parent.parent), *filter(None, sys.path)])
    process = await trio.lowlevel.open_process(
        argv, stdin=PIPE, stdout=PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Talk(root, process.stdin.send_all, process.stdout.receive_some)
    finally:
        process.kill()
        await process.wait()
        await process.stdin.aclose()
        await process.stdout.aclose()


async def compare(gated: Talk, model: Talk, seed: int) -> int:
    """Runs one program on both sides; gives how many of its steps were denied."""
    steps = Author(seed).program()
    results: dict[Talk, Any] = {}
    async with trio.open_nursery() as nursery:
        for talk in (gated, model):
            build(talk.root)

            async def run(talk: Talk = talk) -> None:
                results[talk] = await talk.run(steps)

            nursery.start_soon(run)
    for step, here, there in zip(steps, results[gated], results[model], strict=True):
        assert here == there, f"seed {seed}: {step!s:.300}: gate {here}, model {there}"
    here, there = picture(gated.root), picture(model.root)
    names = sorted(name for name in here.keys() | there if here.get(name) != there.get(name))
    assert not names, f"seed {seed}: {[(name, here.get(name), there.get(name)) for name in names]}"
    return sum(result[1:] in (["EACCES"], ["EROFS"]) for result in results[model])


@pytest.fixture
def disk() -> Iterator[Path]:
    """A disk that takes no time, for a log with thousands of denials."""
    place = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as name:
        yield Path(name)


@pytest.fixture
def roots(tmp_path: Path) -> Iterator[list[Path]]:
    """Two projects; afterwards nothing of them is left that nobody may read."""
    roots = [tmp_path / side / "project" for side in "ab"]
    for root in roots:
        root.mkdir(parents=True)
        build(root)
    yield roots
    for root in roots:
        _remove(str(root.parent))


@pytest.mark.parametrize("scope", SCOPES)
async def test_programs_meet_behind_a_gate_what_the_scope_language_says(
    scope: str, roots: list[Path], disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "DENIALS_S", 0.0)  # as fast as they come
    seed = int(os.environ.get("GATE_MODEL_SEED", "-1"))
    seconds = float(os.environ.get("GATE_MODEL_S", "0"))
    first = random.SystemRandom().randrange(10**9) if seed < 0 else seed
    end, count, denied = time.monotonic() + seconds, 0, 0
    with trio.CancelScope() as patience:
        patience.shield = seconds > 0  # from the deadline of a test
        async with (
            behind_a_gate(roots[0], SCOPES[scope], disk / "audit") as gated,
            before_the_model(roots[1], SCOPES[scope]) as model,
        ):
            while time.monotonic() < end or count < (PROGRAMS if seed < 0 else 1):
                denied += await compare(gated, model, first + count)
                count += 1
    assert denied or seed >= 0
    if seconds:
        print(f"{scope}: {count} programs from seed {first}, {denied} denials")
