"""A daemon with a provider whose program takes a key; says where it listens, until killed."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import trio

from groove_trio import AgentSpec, Config, open_groove
from groove_trio.providers.base import Launch, Place, encode_line
from groove_trio.shell.spawning import forbid_core_dumps
from groove_trio.words.agents import Containment

VARIABLE = "KEYED_API_KEY"


class KeyedProvider:
    """As the command provider, with a key."""

    name = "keyed"
    summary = "Any command, with a key"
    containment: tuple[Containment, ...] = ("gate", "wall", "hooks")
    credentials = (VARIABLE, "KEYED_OTHER_KEY")

    def launch(self, spec: AgentSpec, place: Place) -> Launch:
        return Launch(
            argv=tuple(spec.argv), stdin=encode_line(spec.prompt), keep_open=spec.interactive
        )

    def instruct(self, text: str) -> bytes:
        return encode_line(text)


async def main(project: Path) -> None:
    config = Config(project=project, port=0, providers=[KeyedProvider()], kill_strangers=True)
    async with open_groove(config) as groove:
        print(groove.url, flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG)
    forbid_core_dumps()
    trio.run(main, Path(sys.argv[1]))
