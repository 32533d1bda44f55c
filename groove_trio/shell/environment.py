"""The environment of an agent's program.

It is an allow-list: of the daemon's own variables an agent gets the ones every program needs,
and none of its secrets.
"""

from __future__ import annotations

from collections.abc import Mapping

from groove_trio.providers.base import INHERITED, INHERITED_PREFIX, SET_BY_US, Launch, Place
from groove_trio.shell.census import AGENT_VARIABLE, PROJECT_VARIABLE
from groove_trio.words.agents import AgentSpec
from groove_trio.words.errors import BadRequest


def environment(
    ours: Mapping[str, str],
    spec: AgentSpec,
    launch: Launch,
    place: Place,
    keys: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The whole environment of an agent: inherited, then a key, the spec's, the provider's, ours.

    With `keys`, what is returned holds a bare secret: hand it to exec and keep it nowhere.
    """
    inherited = {
        name: value
        for name, value in ours.items()
        if name in INHERITED or name.startswith(INHERITED_PREFIX) or name in launch.inherit
    }
    fixed = {
        "GROOVE_URL": place.url,
        AGENT_VARIABLE: place.agent,
        "GROOVE_NAME": place.name,
        PROJECT_VARIABLE: place.project,
        "TMPDIR": place.tmp,
    }
    return {**inherited, **(keys or {}), **spec.env, **launch.env, **fixed}


def check_environment(spec: AgentSpec) -> None:
    """Refuses variables that only the daemon may set.

    Raises:
        BadRequest: The spec sets one.
    """
    taken = sorted(SET_BY_US.intersection(spec.env))
    if taken:
        names = ", ".join(taken)
        raise BadRequest(f"env can't set {names}: the daemon sets it itself", field="env")
