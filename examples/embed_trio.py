"""Embed a groove in a trio program: two agents, their output, a knock, a refusal.

Run it with a project directory, or without one to use a temporary one.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import trio

from groove_trio import AgentSpec, Config, Granted, Groove, errors, events, open_groove

WRITE = "from pathlib import Path; Path('note.txt').write_text('hi'); print('wrote note.txt')"


async def run_and_listen(groove: Groove) -> None:
    spec = AgentSpec(
        role="writer", argv=[sys.executable, "-c", WRITE], scope=["notes/"], cwd="notes"
    )
    with groove.events() as happenings:
        agent = await groove.spawn(spec)
        async for published in happenings:
            match published.event:
                case events.OutputAppended(lines=lines):
                    print(*(f"{agent.name}: {line.text}" for line in lines), sep="\n")
                case events.AgentStateChanged(id=agent.id, after="completed" | "failed" as state):
                    print(f"{agent.name}: {state}")
                    return


async def main(project: Path) -> None:
    (project / "notes").mkdir(exist_ok=True)
    async with open_groove(Config(project=project, port=0)) as groove:
        await run_and_listen(groove)

        sleeper = AgentSpec(role="keeper", argv=["sleep", "60"], scope=["src/**"])
        keeper = await groove.spawn(sleeper)
        decision = await groove.knock(keeper.id, "write", "src/main.py")
        print("src/main.py:", "granted" if isinstance(decision, Granted) else decision.reason)
        decision = await groove.knock(keeper.id, "write", "README.md")
        print("README.md:", "granted" if isinstance(decision, Granted) else decision.reason)
        try:
            await groove.spawn(AgentSpec(role="rival", argv=["true"], scope=["src/*.py"]))
        except errors.ScopeOverlap as refusal:
            print("refused:", refusal)
    print("all agents stopped")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        trio.run(main, Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            trio.run(main, Path(scratch))
