"""A provider of your own: an agent called ``unittest`` that runs a project's tests.

A provider only translates: spec in, argv and environment out. The groove starts the program,
holds it to its scope and keeps its output.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import trio

from groove_trio import AgentSpec, Config, open_groove
from groove_trio.providers.base import Launch, Place
from groove_trio.words.agents import Containment

TEST = """import unittest

class Sum(unittest.TestCase):
    def test_sum(self):
        self.assertEqual(1 + 1, 2)
"""


class UnittestProvider:
    """Runs the tests below the agent's working directory; its prompt selects them by name."""

    name = "unittest"
    summary = "Python's unittest on the working directory"
    containment: tuple[Containment, ...] = ("gate", "wall", "hooks")

    def launch(self, spec: AgentSpec, place: Place) -> Launch:
        select = ("-k", spec.prompt) if spec.prompt else ()
        argv = (sys.executable, "-m", "unittest", "discover", "-v", *select)
        return Launch(argv=argv, env={"PYTHONPYCACHEPREFIX": place.tmp})

    def instruct(self, text: str) -> bytes:
        return text.encode() + b"\n"


async def main(project: Path) -> None:
    config = Config(project=project, port=0, providers=[UnittestProvider()])
    async with open_groove(config) as groove:
        agent = await groove.spawn(AgentSpec(role="tester", provider="unittest", scope=[]))
        agent = await groove.wait(agent.id)
        for line in (await groove.output(agent.id)).lines:
            print(line.text)
        print(agent.state)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "test_sum.py").write_text(TEST, encoding="utf-8")
        trio.run(main, Path(scratch))
