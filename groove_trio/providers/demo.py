"""Scripted agents: real processes that do what a list of steps says, for demos and tests."""

from __future__ import annotations

import sys
from pathlib import PurePath

from groove_trio.providers.base import Launch, Place, encode_line
from groove_trio.words.agents import AgentSpec, Containment
from groove_trio.words.errors import BadRequest

SCRIPTED = str(PurePath(__file__).with_name("scripted.py"))


class DemoProvider:
    """Runs `groove_trio.providers.scripted` with the prompt, a JSON list of steps, as its script.

    The process is isolated from the environment's Python settings (``-I -S``), so it starts
    fast and the same everywhere. Interactive agents read follow-ups where a step waits for one.
    """

    name = "demo"
    summary = "A scripted agent: a real process that follows the steps of its prompt"
    containment: tuple[Containment, ...] = ("gate", "wall", "hooks")

    def launch(self, spec: AgentSpec, place: Place) -> Launch:  # noqa: ARG002 - the protocol's
        """Starts the script; its one line is the first on standard input.

        Raises:
            BadRequest: The spec brings an argv, which would be ignored, or no prompt.
        """
        self.check(spec)
        line = encode_line(" ".join(spec.prompt.splitlines()))
        argv = (sys.executable, "-I", "-S", SCRIPTED)
        return Launch(argv=argv, stdin=line, keep_open=spec.interactive)

    def check(self, spec: AgentSpec) -> None:
        """Looks for steps, and for nothing else.

        Raises:
            BadRequest: The spec brings an argv, which would be ignored, or no prompt.
        """
        if spec.argv:
            raise BadRequest("the demo provider takes no argv", field="argv")
        if not spec.prompt.strip():
            raise BadRequest(
                "the demo provider needs its steps, a JSON list, as the prompt", field="prompt"
            )

    def instruct(self, text: str) -> bytes:
        """A follow-up is a line."""
        return encode_line(text)
