"""Knocks through the broker, beside the same records written and synced without one.

Run it: ``python tests/bench/bench_knock.py [knocks]``. Everything is on one core, with the log
on the disk of the current directory.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from groove_trio.rules.scopes import Scope
from groove_trio.shell.audit import AuditLog, open_audit, verify_log
from groove_trio.shell.broker import Broker
from groove_trio.shell.hub import Hub
from groove_trio.words.actors import OWNER, agent_actor
from groove_trio.words.audit import AuditEntry
from groove_trio.words.base import AgentId
from groove_trio.words.knocks import Knock

CALLERS = 200
AGENT = AgentId("3fa9c21e")


def knock_on(path: str) -> Knock:
    return Knock(
        agent=AGENT,
        operation="write",
        path=path,
        actor=agent_actor(AGENT),
        source="library",
        tool="Edit",
    )


def entry_like(knock: Knock, path: str) -> AuditEntry:
    """The record that the broker writes of the knock."""
    detail = {
        "operation": knock.operation,
        "path": path,
        "rule": "src/**",
        "source": knock.source,
        "tool": knock.tool,
    }
    return AuditEntry(actor=knock.actor, action="knock.granted", agent=AGENT, detail=detail)


async def together(count: int, one: Callable[[], Awaitable[object]]) -> list[float]:
    """`CALLERS` tasks share `count` calls of `one`; the seconds each took, sorted."""
    times: list[float] = []

    async def caller(calls: int) -> None:
        for _ in range(calls):
            begin = time.perf_counter()
            await one()
            times.append(time.perf_counter() - begin)

    async with trio.open_nursery() as nursery:
        for _ in range(CALLERS):
            nursery.start_soon(caller, count // CALLERS)
    return sorted(times)


async def measured(name: str, count: int, one: Callable[[], Awaitable[object]]) -> float:
    """Prints what a run of `count` gave; returns the rate."""
    begin, cpu = time.perf_counter(), time.process_time()
    times = await together(count, one)
    rate = len(times) / (time.perf_counter() - begin)
    cost = (time.process_time() - cpu) / len(times)
    p50, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
    print(
        f"{name:<34} {rate:>8,.0f}/s   p50 {p50 * 1e3:6.2f} ms   p99 {p99 * 1e3:6.2f} ms"
        f"   {cost * 1e6:5.1f} us of CPU each"
    )
    return rate


async def through_broker(root: Path, path: str, count: int, name: str) -> float:
    state = root / ".groove"
    state.mkdir(0o700, exist_ok=True)
    hub = Hub()
    async with (
        open_audit(state / "audit", config_dir=root / "config") as audit,
        trio.open_nursery() as nursery,
    ):
        broker = Broker(root, audit, hub.publish, state / "leases.json")
        await nursery.start(broker.run)
        await broker.reserve(AGENT, "bench", Scope(["src/**", "tests/**", "docs/*.md"]), ".", OWNER)
        knock = knock_on(path)
        await together(CALLERS * 5, lambda: broker.knock(knock))
        rate = await measured(name, count, lambda: broker.knock(knock))
        broker.close()
    return rate


async def bare_log(root: Path, count: int, batch: int) -> float:
    """The same lines into the same log, written `batch` at a time by one task; nobody asks."""
    entry = entry_like(knock_on("src/app/main.py"), "src/app/main.py")
    async with open_audit(root / "bare", config_dir=root / "config") as audit:
        begin = time.perf_counter()
        for _ in range(count // batch):
            audit.append([entry] * batch)
            await trio.lowlevel.checkpoint()
        await audit.durable(audit.seq)
        rate = count // batch * batch / (time.perf_counter() - begin)
    print(f"{f'the log alone, {batch} records a write':<34} {rate:>8,.0f}/s")
    return rate


async def each_for_itself(root: Path, count: int) -> float:
    """What callers would do without a broker: append a record, and for a denial wait for it."""
    entry = entry_like(knock_on("src/app/main.py"), "src/app/main.py")
    async with open_audit(root / "each", config_dir=root / "config") as audit:

        async def write(log: AuditLog = audit) -> None:
            log.append([entry])
            await trio.lowlevel.checkpoint()

        return await measured("the log, each caller for itself", count, write)


async def main(count: int) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as place:
        root = Path(place).resolve()
        (root / "src/app").mkdir(parents=True)
        (root / "src/app/main.py").touch()
        granted = await through_broker(root, "src/app/main.py", count, "knocks granted")
        await through_broker(root, "src/app/new.py", count, "knocks granted on a new file")
        await through_broker(root, "elsewhere.py", count, "knocks denied, each on disk first")
        each = await each_for_itself(root, count)
        alone = await bare_log(root, count, 64)
        print(f"broker to log, each for itself: {granted / each:.2f}; alone: {granted / alone:.2f}")
        print(f"log verifies: {verify_log(root / '.groove/audit', root / 'config').ok}")


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 60_000)
