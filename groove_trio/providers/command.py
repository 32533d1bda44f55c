"""Any command as an agent: an argv, its prompt on standard input, its lines as they come."""

from __future__ import annotations

from groove_trio.providers.base import Launch, Place, encode_line
from groove_trio.words.agents import AgentSpec, Containment
from groove_trio.words.errors import BadRequest


class CommandProvider:
    """Runs ``argv`` as it is, never through a shell.

    The prompt, where there is one, is the first thing on standard input. An agent that isn't
    interactive reads end of file after it; an interactive one reads its follow-ups as lines.
    """

    name = "command"
    summary = "Any command: argv as it is, the prompt on standard input"
    containment: tuple[Containment, ...] = ("gate", "wall", "hooks")

    def launch(self, spec: AgentSpec, place: Place) -> Launch:  # noqa: ARG002 - the protocol's
        """Starts the spec's own argv.

        Raises:
            BadRequest: There is no argv, or its program is the empty string.
        """
        self.check(spec)
        return Launch(
            argv=tuple(spec.argv), stdin=encode_line(spec.prompt), keep_open=spec.interactive
        )

    def check(self, spec: AgentSpec) -> None:
        """Looks for a program.

        Raises:
            BadRequest: There is no argv, or its program is the empty string.
        """
        if not spec.argv or not spec.argv[0]:
            raise BadRequest(
                "the command provider needs argv, the program and its arguments, "
                'such as ["make", "test"]',
                field="argv",
            )

    def instruct(self, text: str) -> bytes:
        """A follow-up is a line."""
        return encode_line(text)
