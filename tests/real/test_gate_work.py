"""Real programs at work inside gate and wall: all succeed in scope and leave nothing outside.

Each test runs a script in the directory ``work`` of a project, where the agent may write, with a
home of its own. Afterwards the home, the rest of the project and what else the test made must be
as before, and nothing must have been denied. Nothing here needs a network.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import stat
import sys
import tarfile
import tempfile
import textwrap
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, chdir
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
import trio

from groove_trio import AgentSpec, Config, Groove, open_groove
from groove_trio.shell.kernel import architecture, landlock_version
from groove_trio.shell.shared import PLACE

Level = Literal["gate", "wall"]

PROJECT = "project"
REPOSITORY = ".git{,/config,/hooks,/hooks/**}"
"""What else than ``**`` a scope must name for git to make a repository: all that is protected."""

pytestmark = [
    pytest.mark.skipif(landlock_version() == 0, reason="NO LANDLOCK: not tested"),
    pytest.mark.skipif(architecture() is None, reason="NO FILTER for this machine: not tested"),
]
both = pytest.mark.parametrize("level", ["gate", "wall"])


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skips a test loudly where a program is missing."""
    missing = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"NO {' '.join(missing).upper()}: not tested")


@dataclass
class Ran:
    """What became of a script."""

    state: str
    out: list[str] = field(default_factory=list[str])
    err: list[str] = field(default_factory=list[str])
    denied: list[str] = field(default_factory=list[str])
    granted: list[str] = field(default_factory=list[str])


@dataclass
class Workshop:
    """A project with a daemon, and an agent's place in it."""

    groove: Groove
    root: Path
    level: Level

    @property
    def work(self) -> Path:
        return self.root / PROJECT / "work"

    async def start(self, script: str, scope: Sequence[str] = ()) -> str:
        """Starts an agent that runs a shell script in ``work``; its id."""
        spec = AgentSpec(
            role="worker",
            scope=["work/**", *scope],
            cwd="work",
            containment=self.level,
            argv=["bash", "-ec", textwrap.dedent(script)],
            env={"HOME": str(self.root / "home"), "PYTHON": sys.executable},
        )
        return (await self.groove.spawn(spec)).id

    async def run(self, script: str, scope: Sequence[str] = ()) -> Ran:
        """Runs a shell script in ``work`` to its end; it must leave nothing elsewhere."""
        before = self._outside()
        agent = await self.start(script, scope)
        while self.groove.agent(agent).state in {"starting", "running"}:
            await trio.sleep(0.01)
        ran = await self.told(agent)
        assert self._outside() == before
        assert ran.denied == []
        assert ran.state == "completed", ran
        return ran

    async def told(self, agent: str) -> Ran:
        """What an agent said, and what was asked for it."""
        ran = Ran(self.groove.agent(agent).state)
        for line in (await self.groove.output(agent, limit=1000)).lines:
            (ran.out if line.stream == "out" else ran.err).append(line.text)
        for record in await self._records(agent):
            detail = record.get("detail", {})
            if record["action"] == "knock.granted":
                ran.granted.append(detail["path"])
            elif record["action"] in {"knock.denied", "gate.refuse"}:
                ran.denied.append(f"{detail['call']} {detail.get('path')} by {detail['tool']}")
        return ran

    async def _records(self, agent: str) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        after, more = 0, True
        while more:
            page = await self.groove.audit(after, limit=1000, agent=agent)
            records += [msgspec.json.decode(record) for record in page.records]
            after, more = page.next, page.more
        return records

    def _outside(self) -> dict[str, tuple[int, int, int]]:
        """All that is not the agent's: kind and mode, size, time of the last change."""
        found: dict[str, tuple[int, int, int]] = {}
        for place, directories, files in os.walk(self.root):
            directories[:] = [
                name for name in directories if Path(place, name) != self.work and name != ".groove"
            ]
            for name in (*directories, *files):
                told = os.lstat(os.path.join(place, name))
                size = 0 if stat.S_ISDIR(told.st_mode) else told.st_size
                found[os.path.join(place, name)] = told.st_mode, size, told.st_mtime_ns
        return found


Open = Callable[[], Any]


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory as short as people's own: a socket's path has room for 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="w-") as root:
        yield Path(root).resolve()


@pytest.fixture
def workshop(root: Path, level: Level) -> Open:
    """Opens a workshop that holds its agents to `level`."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Workshop]:
        for name in ("home", f"{PROJECT}/work", f"{PROJECT}/other"):
            (root / name).mkdir(parents=True)
        (root / PROJECT / "other/kept").write_text("as it was")
        async with open_groove(Config(project=root / PROJECT, port=0)) as groove:
            if level not in groove.status().containment:
                pytest.skip(f"NO {level.upper()}: not tested")
            yield Workshop(groove, root, level)

    return opened


@both
@needs("git")
async def test_git_makes_clones_and_changes_repositories(workshop: Open) -> None:
    async with workshop() as shop:
        ran = await shop.run(
            """
            for who in AUTHOR COMMITTER; do
              export GIT_${who}_NAME=someone GIT_${who}_EMAIL=someone@example.org
            done
            git init -q -b main origin
            cd origin
            for name in one two three; do echo $name > $name; git add .; git commit -qm $name; done
            cd ..
            git clone -q origin clone
            cd clone
            git checkout -q -b side HEAD~1
            echo x > four; git add four; git commit -qm four
            git rebase -q main
            echo y >> four; git stash -q; git stash pop -q; git commit -qam five
            git checkout -q main; git merge -q side
            git worktree add -q ../tree HEAD~1
            git push -q origin main:pushed
            git gc -q; git fsck --no-dangling
            git diff HEAD~1 > ../patch; git apply -R ../patch; git reset -q --hard
            git status --porcelain
            git log --format=%s
            """,
            scope=[f"work/{name}/{REPOSITORY}" for name in ("origin", "clone")]
            + ["work/tree/.git"],
        )
        assert ran.out == ["five", "four", "three", "two", "one"]


def wheel(place: Path) -> None:
    """A wheel, as small as they come."""
    with zipfile.ZipFile(place / "tiny-1-py3-none-any.whl", "w") as archive:
        about = "tiny-1.dist-info"
        archive.writestr("tiny/__init__.py", "def say(): print('tiny is here')")
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1\n")
        archive.writestr(f"{about}/entry_points.txt", "[console_scripts]\ntiny=tiny:say\n")
        kind = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{about}/WHEEL", kind)
        archive.writestr(f"{about}/RECORD", "")


@both
@pytest.mark.skipif(find_spec("pip") is None, reason="NO PIP: not tested")
async def test_pip_installs_into_a_venv(workshop: Open) -> None:
    async with workshop() as shop:
        wheel(shop.work)
        ran = await shop.run(
            """
            export PATH=$PWD/venv/bin:/usr/bin:/bin
            $PYTHON -m venv --without-pip venv
            pip="$PYTHON -m pip --python venv --disable-pip-version-check"
            $pip install -q --no-index ./tiny-1-py3-none-any.whl
            tiny; tiny > /dev/null
            $pip uninstall -q -y tiny
            python -c 'import tiny' 2> /dev/null || echo gone
            """
        )
        assert ran.out == ["tiny is here", "gone"]


@both
@needs("node", "npm")
async def test_npm_installs_packages_and_runs_their_scripts(workshop: Open) -> None:
    async with workshop() as shop:
        tarball(shop.work, "inner")
        tarball(shop.work, "outer")
        (shop.work / "app").mkdir()
        (shop.work / "app/package.json").write_text(
            '{"name": "app", "version": "1.0.0", "scripts": {"both": "inner && outer",'
            ' "postinstall": "node -e \'require(`fs`).writeFileSync(`installed`, ``)\'"}}'
        )
        ran = await shop.run(
            """
            cd app
            npm install --offline --no-audit --no-fund --silent ../inner.tgz ../outer.tgz
            npm run --silent both
            rm -r node_modules
            npm install --offline --no-audit --no-fund --silent
            test -e installed && ls node_modules
            """
        )
        assert ran.out == ["inner", "outer", "inner", "outer"]


def tarball(place: Path, name: str) -> None:
    """A package for npm, with a command that says its name."""
    about = {"name": name, "version": "1.0.0", "bin": "run.js"}
    files = {
        "package.json": msgspec.json.encode(about),
        "run.js": f"#!/usr/bin/env node\nconsole.log('{name}')\n".encode(),
    }
    with tarfile.open(place / f"{name}.tgz", "w:gz") as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(f"package/{path}")
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))


@both
@needs("gcc", "make")
async def test_make_compiles_in_parallel(workshop: Open) -> None:
    async with workshop() as shop:
        (shop.work / "Makefile").write_text(
            "all: program\n%.o: %.c\n\tgcc -pipe -c $< -o $@\n"
            "library.a: a.o b.o\n\tar rcs $@ $^\nprogram: c.o library.a\n\tgcc -o $@ $^\n"
        )
        ran = await shop.run(
            """
            for name in a b; do echo "int $name(void) { return 1; }" > $name.c; done
            echo '#include <stdio.h>
            int a(void); int b(void); int main(void) { printf("%d", a() + b()); }' > c.c
            make -s -j4
            ./program
            touch a.c && make -s -j4 && make -q && echo made
            gcc a.c b.c c.c -o at-once && strip at-once && ./at-once
            """
        )
        assert ran.out == ["2made", "2"]


@both
async def test_pytest_runs(workshop: Open) -> None:
    async with workshop() as shop:
        (shop.work / "test_it.py").write_text(
            "def test_it(tmp_path, capfd):\n"
            "    (tmp_path / 'x').write_text('y')\n"
            "    print((tmp_path / 'x').read_text())\n"
            "    assert capfd.readouterr().out == 'y\\n'\n"
        )
        ran = await shop.run("$PYTHON -m pytest -q test_it.py; ls -d .pytest_cache")
        assert "1 passed" in ran.out[1]
        assert ran.out[-1] == ".pytest_cache"


@both
@needs("tar", "unzip", "patch", "sed", "diff")
async def test_common_tools_change_files(workshop: Open) -> None:
    async with workshop() as shop:
        with zipfile.ZipFile(shop.work / "x.zip", "w") as archive:
            archive.writestr("deep/down/file", "zipped\n")
        ran = await shop.run(
            """
            umask 027
            printf 'one\\ntwo\\n' > a
            sed -i s/one/1/ a; sed -i.old s/two/2/ a
            diff -u a.old a > p || true
            patch -s -R a p; cat a
            mkdir -p d/e; cp -a a d/e/; cp --reflink=auto a d/; install -m 711 a d/i
            tar czf d.tgz d; rm -r d; tar xzf d.tgz; stat -c %a d d/i
            unzip -q x.zip; cat deep/down/file
            ln -s a l; ln a h; mv h d/; touch -d 2020-01-01 d/h; stat -c %Y l a
            dd if=/dev/zero of=z bs=1k count=3 status=none; truncate -s 5 z; stat -c %s z
            mkfifo f; (echo through > f &); cat f
            chmod -R go= d; find d -type f -delete; rmdir d/e d; test ! -e d
            test -w "$(mktemp)"; split -b 1 z; ls x??
            seq 8 | xargs -P4 -I{} touch n{}; echo n? | tr ' ' '\\n' | tee list | wc -l
            """
        )
        assert ran.out[:5] == ["1", "two", "750", "711", "zipped"]
        assert ran.out[6] == "1577836800"
        assert ran.out[7:9] == ["5", "through"]
        assert ran.out[9:] == [*(f"xa{letter}" for letter in "abcde"), "8"]


@both
async def test_databases_keep_their_journals(workshop: Open) -> None:
    async with workshop() as shop:
        (shop.work / "it.py").write_text(
            "import sqlite3, subprocess, sys\n"
            "for mode in ('wal', 'delete', 'truncate', 'persist', 'off'):\n"
            "    base = sqlite3.connect(f'{mode}.db', timeout=20)\n"
            "    base.execute(f'pragma journal_mode={mode}')\n"
            "    base.execute('create table t(x)')\n"
            "    base.commit()\n"
            "    add = f'''import sqlite3; b = sqlite3.connect('{mode}.db', timeout=20)\n"
            "for i in range(10): b.execute('insert into t values(1)'); b.commit()'''\n"
            "    others = [subprocess.Popen([sys.executable, '-c', add]) for _ in range(2)]\n"
            "    for i in range(10):\n"
            "        base.execute('insert into t values(1)')\n"
            "        base.commit()\n"
            "    assert not any(other.wait() for other in others)\n"
            "    print(mode, *base.execute('select count(*) from t').fetchone())\n"
            "    base.execute('vacuum')\n"
            "    base.close()\n"
        )
        ran = await shop.run("$PYTHON it.py")
        assert ran.out == [f"{mode} 30" for mode in ("wal", "delete", "truncate", "persist", "off")]


@both
async def test_the_shell_pipes_substitutes_and_locks(workshop: Open) -> None:
    async with workshop() as shop:
        ran = await shop.run(
            """
            cat <<< here; cat << END
            $(echo document)
            END
            diff <(echo a) <(echo a) && echo same
            echo in > >(cat); sleep 0.1
            exec 7> lock; flock -n 7 && echo locked; flock -n lock true || echo busy
            (setsid sh -c 'echo apart > session' &) ; timeout 5 true
            while ! test -s session; do sleep 0.01; done; cat session
            echo err 2>&1 > /dev/null | cat; echo to > /dev/stdout; echo x >> /dev/null
            set -m; sleep 0 & wait; trap 'echo trapped' EXIT
            """
        )
        told = ["here", "document", "same", "in", "locked", "busy", "apart", "to", "trapped"]
        assert ran.out == told


@both
async def test_terminals_are_made_and_used(workshop: Open) -> None:
    async with workshop() as shop:
        (shop.work / "it.py").write_text(
            "import os, pty, sys\n"
            "pid, fd = pty.fork()\n"
            "if not pid:\n"
            "    tty = open('/dev/tty', 'w'); tty.write('from the terminal'); tty.close()\n"
            "    os.ttyname(0), os.set_inheritable(0, True), os._exit(0)\n"
            "print(os.read(fd, 100).decode())\n"
            "a, b = os.openpty()\n"
            "os.write(a, b'typed\\n')\n"
            "c = os.open(os.ttyname(b), os.O_RDWR | os.O_NOCTTY)\n"
            "print(os.read(c, 100).decode(), end='')\n"
        )
        ran = await shop.run(
            """
            $PYTHON it.py
            command -v script > /dev/null || { echo scripted; exit; }
            script -qec 'echo scripted' log < /dev/null; grep -q scripted log
            """
        )
        assert [line.strip() for line in ran.out] == ["from the terminal", "typed", "scripted"]


POOL = """
import multiprocessing as mp
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.shared_memory import SharedMemory

def square(x):
    return x * x

if __name__ == "__main__":
    with mp.Pool(2) as pool:
        print("pool", *pool.map(square, [1, 2]))
    for way in ("spawn", "forkserver"):
        with ProcessPoolExecutor(2, mp_context=mp.get_context(way)) as pool:
            print(way, *pool.map(square, [3, 4]))
    with mp.Manager() as manager:
        shared = manager.list([5])
        print("manager", *shared)
    queue = mp.Queue()
    queue.put(6)
    print("queue", queue.get())
    with mp.Semaphore(2):
        mine = SharedMemory(create=True, size=10)
        mine.buf[0] = 7
        also = SharedMemory(name=mine.name)
        print("memory", also.buf[0])
        also.close(), mine.close(), mine.unlink()
"""


@pytest.mark.parametrize("level", ["gate"])  # the wall can't tell whose it is
async def test_processes_share_memory_and_locks(workshop: Open) -> None:
    async with workshop() as shop:
        (shop.work / "it.py").write_text(POOL)
        ran = await shop.run("$PYTHON it.py")
        told = ["pool 1 4", "spawn 9 16", "forkserver 9 16", "manager 5", "queue 6", "memory 7"]
        assert ran.out == told


@pytest.fixture
def memory() -> Iterator[Path]:
    """Somebody's shared memory."""
    with tempfile.NamedTemporaryFile(dir=PLACE) as file:
        file.write(b"somebody's")
        file.flush()
        yield Path(file.name)


@both
async def test_shared_memory_of_others_is_closed(workshop: Open, memory: Path) -> None:
    async with workshop() as shop:
        agent = await shop.start(
            f"""
            cd {PLACE}; set +e
            echo x > {memory}; echo x >> {memory}; rm -f {memory}; truncate -s 0 {memory}
            chmod 777 {memory}; ln {memory} {memory}-a; mv {memory} {memory}-b
            ln -s /etc/passwd {memory}-c; mkdir {memory}-d; mkfifo {memory}-e
            echo made > {memory}-made && ln {memory}-made {memory}-too && rm {memory}-made
            mv {memory}-too {memory}; ln -f {memory}-too {memory}; cat {memory}-too
            """
        )
        while shop.groove.agent(agent).state in {"starting", "running"}:
            await trio.sleep(0.01)
        ran = await shop.told(agent)
        assert ran.out == (["made"] if shop.level == "gate" else [])
        assert memory.read_text() == "somebody's"
        if shop.level == "gate":  # no wall holds chmod
            assert memory.stat().st_mode & 0o777 == 0o600
    assert list(Path(PLACE).glob(f"{memory.name}*")) == [memory]


@both
async def test_editors_replace_files(workshop: Open) -> None:
    async with workshop() as shop:
        ran = await shop.run(
            """
            echo old > a; chmod 640 a
            $PYTHON - << END
            import os, tempfile
            with tempfile.NamedTemporaryFile('w', dir='.', delete=False) as file:
                file.write('new'); file.flush(); os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o640)
            os.replace(file.name, 'a')
            os.fsync(os.open('.', os.O_RDONLY))
            os.link('a', 'a~'); os.unlink('a'); os.rename('a~', 'a')
            END
            if command -v vim > /dev/null; then
              vim -es -u NONE -c 'set backup backupdir=. undofile undodir=.' \
                -c '%s/new/newer/' -c 'wq' a
            else echo newer > a; fi
            cat a; stat -c %a a
            """
        )
        assert ran.out == ["newer", "640"]


@both
@needs("node")
async def test_node_spawns_watches_and_listens(workshop: Open) -> None:
    async with workshop() as shop:
        (shop.work / "forked.js").write_text("process.send('a message'); process.disconnect();")
        (shop.work / "it.js").write_text(
            textwrap.dedent("""
            const fs = require('fs'), cp = require('child_process'), net = require('net');
            const os = require('os'), path = require('path');
            const { Worker } = require('worker_threads');
            console.log(cp.execSync('echo a child').toString().trim());
            const seen = watched => new Promise(done => {
              const watch = fs.watch('.', (kind, name) => {
                if (name === watched) { watch.close(); done('a change'); }
              });
              fs.writeFileSync(watched, 'x');
            });
            const message = new Promise(done => cp.fork('forked.js').on('message', done));
            const heard = where => new Promise(done => {
              const server = net.createServer(peer => peer.end('a peer')).listen(where, () => {
                net.connect(server.address().port || where)
                  .on('data', data => { server.close(); done(data.toString()); });
              });
            });
            const worker = new Promise(done => new Worker(
              'require("worker_threads").parentPort.postMessage("a worker")', {eval: true},
            ).on('message', done));
            fs.cpSync('it.js', 'copy.js'); fs.rmSync('copy.js');
            fs.writeFileSync(path.join(fs.mkdtempSync(path.join(os.tmpdir(), 'x-')), 'y'), '');
            Promise.all([seen('file'), message, heard('socket'), heard(0), worker])
              .then(all => all.forEach(each => console.log(each)));
            """)
        )
        ran = await shop.run("node it.js")
        assert ran.out == ["a child", "a change", "a message", "a peer", "a peer", "a worker"]


@both
async def test_a_server_is_reached_on_its_port_and_its_socket(workshop: Open) -> None:
    async with workshop() as shop:
        (shop.work / "serve.py").write_text(
            "import asyncio\n"
            "async def hello(reader, writer):\n"
            "    writer.write(b'hello ' + await reader.readline())\n"
            "    writer.close()\n"
            "async def main():\n"
            "    tcp = await asyncio.start_server(hello, '127.0.0.1', 0)\n"
            "    await asyncio.start_unix_server(hello, 's')\n"
            "    reader, writer = await asyncio.open_unix_connection('s')\n"
            "    writer.write(b'myself\\n')\n"
            "    print((await reader.readline()).decode(), end='')\n"
            "    print(tcp.sockets[0].getsockname()[1], flush=True)\n"
            "    await asyncio.sleep(3600)\n"
            "asyncio.run(main())\n"
        )
        agent = await shop.start("exec $PYTHON serve.py")
        while len((ran := await shop.told(agent)).out) < 2:
            assert shop.groove.agent(agent).state == "running", ran
            await trio.sleep(0.01)
        assert ran.out[0] == "hello myself"
        async with await trio.open_tcp_stream("127.0.0.1", int(ran.out[1])) as stream:
            await stream.send_all(b"stranger\n")
            assert await stream.receive_some() == b"hello stranger\n"
        with socket.socket(socket.AF_UNIX) as peer:
            with chdir(shop.work):  # its whole path may be too long
                peer.connect("s")
            peer.sendall(b"you\n")
            assert await trio.to_thread.run_sync(peer.recv, 100) == b"hello you\n"
        await shop.groove.stop(agent, 1.0)
        assert (await shop.told(agent)).denied == []


@both
@needs("ssh-keygen")
async def test_keys_are_made_in_scope(workshop: Open) -> None:
    async with workshop() as shop:
        ran = await shop.run(
            "ssh-keygen -q -t ed25519 -N '' -f key -C me; stat -c %a key; cut -d' ' -f3 key.pub"
        )
        assert ran.out == ["600", "me"]
