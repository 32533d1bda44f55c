"""The audit log: sealing, verifying, durable denials, and reading the end of a long one.

Run it: ``python tests/bench/bench_audit.py [records]``; 5 million records take 3 GB of the disk
of the current directory, for a minute. Everything is on one core. Each number stands beside what
the same disk and the same bytes take without the log.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import median

import trio

from groove_trio.rules.scopes import Scope
from groove_trio.shell.audit import AuditLog, open_audit
from groove_trio.shell.broker import Broker
from groove_trio.shell.heads import verify_log
from groove_trio.shell.segments import list_segments
from groove_trio.testing import connect_memory, open_test_groove
from groove_trio.words.actors import OWNER, agent_actor
from groove_trio.words.audit import AuditEntry
from groove_trio.words.base import AgentId
from groove_trio.words.knocks import Knock

BATCH = 64
SEALED = 400_000
CALLERS = 200
ROUNDS = 25
ASKED = 300
AGENT = AgentId("3fa9c21e")
ENTRY = AuditEntry(
    actor=agent_actor(AGENT),
    action="knock.granted",
    agent=AGENT,
    detail={
        "operation": "write",
        "path": "src/backend/models/user_profile.py",
        "rule": "src/backend/**",
        "source": "gate",
        "tool": "",
        "call": "openat",
        "pid": 12345,
    },
)
DENIED = Knock(
    agent=AGENT,
    operation="write",
    path="docs/plan.md",
    actor=agent_actor(AGENT),
    source="library",
    tool="Edit",
)


async def append(log: AuditLog, count: int) -> float:
    """Records a second, in batches, with nobody waiting for the disk."""
    batch = [ENTRY] * BATCH
    begin = time.perf_counter()
    for _ in range(count // BATCH):
        log.append(batch)
    rate = count / (time.perf_counter() - begin)
    await log.durable(log.seq)
    return rate


def write_bare(path: Path, lines: list[bytes], count: int) -> float:
    """The same bytes in the same batches, hashed and written by nobody in particular."""
    data = b"".join(lines)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    begin = time.perf_counter()
    for _ in range(count // BATCH):
        for line in lines:
            sha256(line).hexdigest()
        os.write(descriptor, data)
    rate = count / (time.perf_counter() - begin)
    os.close(descriptor)
    path.unlink()
    return rate


async def sealing(root: Path) -> None:
    """Without syncs, which are another matter: the disk is told that it need not."""
    rates, floors = list[float](), list[float]()
    sync = os.fdatasync
    async with open_audit(root / "sealing", config_dir=root / "config") as log:
        synced = await append(log, SEALED)
        os.fdatasync = lambda _descriptor: None
        try:
            for _ in range(5):
                lines = last_lines(root / "sealing", BATCH)
                rates.append(await append(log, SEALED // 4))
                floors.append(write_bare(root / "bare", lines, SEALED // 4))
        finally:
            os.fdatasync = sync
    rate, floor = median(rates), median(floors)
    print(
        f"appended, {BATCH} a batch       {rate:>10,.0f}/s   hashed and written bare {floor:,.0f}/s"
    )
    print(
        f"  to the floor: {rate / floor:.2f}; with the syncs of the log's own task {synced:,.0f}/s"
    )


def last_lines(place: Path, count: int) -> list[bytes]:
    with list_segments(place)[0].open("rb") as file:
        return [file.readline() for _ in range(count + 1)][1:]


def verifying(root: Path) -> None:
    begin = time.perf_counter()
    found = verify_log(root / "sealing", root / "config")
    rate = found.records / (time.perf_counter() - begin)
    assert found.ok
    assert found.keyed
    begin = time.perf_counter()
    for path in list_segments(root / "sealing"):
        with path.open("rb") as file:
            for line in file:
                sha256(line).hexdigest()
    floor = found.records / (time.perf_counter() - begin)
    print(f"verified                    {rate:>10,.0f}/s")
    print(f"  read and hashed bare      {floor:>10,.0f}/s: {rate / floor:.2f}")


async def denials(root: Path) -> None:
    state = root / "denying"
    state.mkdir(0o700)
    line = b"x" * 450
    bare = os.open(state / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write() -> float:
        begin = time.perf_counter()
        os.write(bare, line)
        os.fdatasync(bare)
        return time.perf_counter() - begin

    async def ask(times: list[float]) -> None:
        begin = time.perf_counter()
        await broker.knock(DENIED)
        times.append(time.perf_counter() - begin)

    floor, alone, crowd = list[float](), list[float](), list[float]()
    async with (
        open_audit(state / "audit", config_dir=root / "config") as log,
        trio.open_nursery() as nursery,
    ):
        broker = Broker(root, log, lambda _: None, state / "leases.json", wanted=lambda: False)
        await nursery.start(broker.run)
        await broker.reserve(AGENT, "bench", Scope(["src/**"]), ".", OWNER)
        for _ in range(ASKED):  # in turns: what the disk does to one, it does to the other
            floor.append(write())
            await ask(alone)
        for _ in range(ROUNDS):
            async with trio.open_nursery() as callers:
                for _ in range(CALLERS):
                    callers.start_soon(ask, crowd)
            floor += [write() for _ in range(10)]
        broker.close()
    base, one, p95 = median(floor), median(alone), sorted(crowd)[len(crowd) * 95 // 100]
    print(f"write and sync, bare        {base * 1e3:10.3f} ms")
    print(f"a durable denial            {one * 1e3:10.3f} ms, {one / base:.2f} times")
    print(f"{CALLERS} at once, p95            {p95 * 1e3:10.3f} ms, {p95 / base:.2f} times")


async def asked(one: Callable[[], Awaitable[object]]) -> float:
    times = list[float]()
    for _ in range(ASKED):
        begin = time.perf_counter()
        await one()
        times.append(time.perf_counter() - begin)
    return median(times)


async def reading(root: Path, count: int) -> None:
    """The last page, and the opening, of a short log and of a long one, in turns."""
    config = root / "config"
    starts, pages, answers = ([list[float](), list[float]()] for _ in range(3))
    projects = [root / "short", root / "long"]
    for project, records in zip(projects, (1_000, count), strict=True):
        (project / ".groove").mkdir(0o700, parents=True)
        async with open_audit(project / ".groove/audit", config_dir=config) as log:
            rate = await append(log, records // BATCH * BATCH)
        size = sum(path.stat().st_size for path in list_segments(project / ".groove/audit"))
        print(f"{records:>9,} records made at {rate:,.0f}/s, {size / 2**20:,.1f} MiB")
    os.sync()  # or the disk is still at work on the long one
    for _ in range(5):
        for turn, project in enumerate(projects):
            begin = time.perf_counter()
            async with open_audit(project / ".groove/audit", config_dir=config) as log:
                starts[turn].append(time.perf_counter() - begin)
                pages[turn].append(await asked(lambda log=log: log.read(log.seq - 100, 100)))
            async with (
                open_test_groove(project, config_dir=config) as groove,
                connect_memory(groove) as client,
            ):
                one = partial(client.request, "GET", "/api/audit?after=-100")
                answers[turn].append(await asked(one))
    for name, (short, long) in (
        ("opened in", starts),
        ("last 100 read in", pages),
        ("last 100 by GET /api/audit in", answers),
    ):
        ratio = median(long) / median(short)
        print(
            f"{name} {median(short) * 1e3:.2f} and {median(long) * 1e3:.2f} ms: {ratio:.2f} times"
        )


async def main(count: int) -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as place:
        root = Path(place).resolve()
        await sealing(root)
        verifying(root)
        await denials(root)
        await reading(root, count)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 5_000_000)
