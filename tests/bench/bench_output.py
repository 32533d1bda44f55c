"""Output at speed: four agents, one WebSocket subscriber, every line kept and counted.

Run it: ``python tests/bench/bench_output.py [lines-a-second-in-total] [seconds] [megabytes]``.
First a paced run (are 100,000 lines a second carried, and none lost?), then one at full speed
(how many could be?), then a stream without any newline (does memory stay flat?). The
subscriber is another process and reads events as fast as it can. The agents are held by hooks: what
is measured is the way of their output, not the making of sandboxes.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

from groove_trio.config import Config
from groove_trio.groove import Groove, open_groove
from groove_trio.words.agents import AgentPatch, AgentSpec

AGENTS = 4

PACED = r"""
import sys, time
rate, seconds = float(sys.argv[1]), float(sys.argv[2])
total, sent, begin = int(rate * seconds), 0, time.monotonic()
while sent < total:
    due = min(total, int((time.monotonic() - begin) * rate) + 1)
    lines = [f'line {n} of the paced output of an agent\n' for n in range(sent, due)]
    sys.stdout.write(''.join(lines))
    sys.stdout.flush()
    sent = due
    time.sleep(0.002)
"""

FULL = r"""
import os, sys
block = b'line of an agent that does not wait\n' * 1000
for _ in range(int(float(sys.argv[1])) // 1000):
    left = memoryview(block)
    while left:
        left = left[os.write(1, left):]
"""

UNENDED = r"""
import os, sys
for _ in range(int(sys.argv[1]) * 16):
    os.write(1, b'x' * 65536)
"""

SUBSCRIBER = r"""
import sys, trio
from groove_trio.client import connect_groove

async def main():
    seen = gaps = 0
    async with connect_groove(url=sys.argv[1]) as groove, groove.events() as events:
        print('ready', flush=True)
        async for envelope in events:
            event = envelope.event
            match type(event).__name__:
                case 'OutputAppended':
                    seen += len(event.lines)
                case 'Gap':
                    gaps += 1
                case 'AgentChanged' if event.agent.name == 'done':
                    break
    print(seen, gaps, flush=True)

trio.run(main)
"""


def memory_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def count_kept(groove: Groove, project: Path) -> tuple[int, int]:
    """Lines in the logs, and how many of them are out of order."""
    kept = wrong = 0
    for view in groove.agents():
        path = project / ".groove/agents" / view.id / "output.jsonl"
        if path.exists():
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    kept += 1
                    wrong += json.loads(line)["seq"] != number
    return kept, wrong


async def run_agents(
    groove: Groove, marker: str, program: str, arguments: tuple[object, ...]
) -> tuple[float, float]:
    """Runs the program as four agents, then renames the marker: a sign to the subscriber.

    Returns:
        The seconds it took, and the peak of memory meanwhile.
    """
    argv = [sys.executable, "-I", "-S", "-c", program, *map(str, arguments)]
    begin = time.perf_counter()
    talkers = [
        (await groove.spawn(AgentSpec(role="talker", argv=argv, scope=[], containment="hooks"))).id
        for _ in range(AGENTS)
    ]
    peak = 0.0
    while any(groove.agent(talker).state == "running" for talker in talkers):
        peak = max(peak, memory_mb())
        await trio.sleep(0.02)
    spent = time.perf_counter() - begin
    await groove.patch(marker, AgentPatch(name="done"))
    return spent, peak


async def measure(what: str, program: str, *arguments: object) -> None:
    with tempfile.TemporaryDirectory() as place:
        project = Path(place)
        async with open_groove(Config(project=project, port=0)) as groove:
            sleep = ["sleep", "3600"]
            marker = await groove.spawn(
                AgentSpec(role="marker", argv=sleep, scope=[], containment="hooks")
            )
            command = [sys.executable, "-c", SUBSCRIBER, groove.url]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as subscriber:
                assert subscriber.stdout is not None
                await trio.to_thread.run_sync(subscriber.stdout.readline)
                before, cpu = memory_mb(), time.process_time()
                spent, peak = await run_agents(groove, marker.id, program, arguments)
                cpu = time.process_time() - cpu
                told = await trio.to_thread.run_sync(subscriber.stdout.readline)
            kept, wrong = count_kept(groove, project)
    seen, gaps = map(int, told.split())
    print(f"{what:<18} {kept:>10,} lines in {spent:5.1f} s: {kept / spent:>9,.0f} a second")
    print(f"{'':<18} {wrong} out of order; the subscriber saw {seen:,}, with {gaps} gaps")
    print(f"{'':<18} memory {before:.0f} -> {peak:.0f} MiB, CPU of the daemon {cpu / spent:.0%}")


async def main(rate: float, seconds: float, megabytes: float) -> None:
    await measure(f"paced {rate:,.0f}/s", PACED, rate / AGENTS, seconds)
    await measure("full speed", FULL, rate * seconds / AGENTS)
    await measure(f"{megabytes:.0f} MB unended", UNENDED, int(megabytes) // AGENTS)


if __name__ == "__main__":
    given = [float(word) for word in sys.argv[1:]]
    trio.run(main, *given, *(100_000.0, 10.0, 1024.0)[len(given) :])
