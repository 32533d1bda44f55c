"""Talk to a running daemon from asyncio: spawn an agent, follow it, see what it may write.

Start a daemon first (``groove-trio start``) and run this in its project, or name its address.
"""

from __future__ import annotations

import asyncio
import sys

from groove_trio import AgentSpec, connect_groove, events

COUNT = "import time\nfor n in range(3): print('step', n, flush=True); time.sleep(0.05)"


async def main(url: str | None) -> None:
    async with connect_groove(url=url) as groove:
        status = await groove.status()
        print(f"groove-trio {status.version} on {status.project}")

        async with groove.events() as happenings:
            spec = AgentSpec(role="counter", argv=[sys.executable, "-c", COUNT], scope=["count/**"])
            agent = await groove.spawn(spec)
            async for envelope in happenings:
                match envelope.event:
                    case events.OutputAppended(id=agent.id, lines=lines):
                        for line in lines:
                            print(f"{agent.name} {line.seq}: {line.text}")
                    case events.AgentStateChanged(id=agent.id, after="completed" | "failed") as end:
                        print(f"{agent.name}: {end.after}")
                        break

        explained = await groove.explain("README.md")
        print(explained.summary)
        await groove.remove(agent.id)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
