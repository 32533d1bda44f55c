"""A thousand sleeping agents under one daemon: spawned, told of, stopped; none left.

Run it: ``python tests/bench/bench_agents.py [agents]``. The daemon is this process; its own
memory is what is measured. The spawns come 64 at a time, as connections would bring them. The
agents are held by hooks: what is measured is supervision, not the making of sandboxes.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import trio

from groove_trio.config import Config
from groove_trio.groove import Groove, open_groove
from groove_trio.shell.procfs import read_children
from groove_trio.words.agents import AgentSpec

AT_ONCE = 64


def memory_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


async def spawn_all(groove: Groove, count: int) -> float:
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def spawn(number: int) -> None:
        async with limiter:
            await groove.spawn(
                AgentSpec(
                    role="sleeper",
                    argv=["sleep", "3600"],
                    scope=[f"a{number}/**"],
                    containment="hooks",
                )
            )

    begin = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(spawn, number)
    return time.perf_counter() - begin


def told_in(groove: Groove) -> list[float]:
    """Seconds for twenty answers to "how are you", each with a list of all agents; sorted."""
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        msgspec.json.encode([groove.status(), groove.agents()])
        times.append(time.perf_counter() - begin)
    return sorted(times)


async def bare_spawns(count: int) -> float:
    """The same programs started by trio alone, for the ratio."""
    begin = time.perf_counter()
    async with trio.open_nursery() as nursery:
        started = [await nursery.start(trio.run_process, ["sleep", "3600"]) for _ in range(count)]
        spent = time.perf_counter() - begin
        for process in started:
            process.kill()
        nursery.cancel_scope.cancel()
    return spent


async def main(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 6 * count + 1000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    with tempfile.TemporaryDirectory() as place:
        async with open_groove(Config(project=Path(place), port=0)) as groove:
            empty = memory_kb()
            spawned_s = await spawn_all(groove, count)
            full = memory_kb()
            times = told_in(groove)
            pids = [view.pid for view in groove.agents() if view.state == "running"]
            begin = time.perf_counter()
        stopped_s = time.perf_counter() - begin
        states = {view.state for view in groove.agents()}
    bare = await bare_spawns(min(count, 100)) * count / min(count, 100)
    left = [pid for pid in pids if pid is not None and Path(f"/proc/{pid}").exists()]
    print(f"{len(pids)} of {count} agents ran; the daemon had {empty / 1024:.0f} MiB before")
    print(f"spawned in {spawned_s:6.2f} s   ({spawned_s / bare:.1f} times bare trio.run_process)")
    print(f"memory     {(full - empty) / count:6.1f} kB an agent, {full / 1024:.0f} MiB in all")
    usual, worst = times[10] * 1000, times[-1] * 1000
    print(f"status     {usual:6.1f} ms with all agents listed, {worst:.1f} at worst")
    print(f"stopped in {stopped_s:6.2f} s   {states}")
    print(f"left       {len(left)} processes, {len(read_children(os.getpid()))} children")


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
