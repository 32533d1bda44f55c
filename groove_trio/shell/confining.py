"""Puts agents' programs behind gate and wall: builds both, and has the launcher make them.

What an agent is held to is decided when it is spawned. What that means on this machine, for this
scope, is worked out anew at each start, and is part of what is told of the agent: how each
pattern is held, and what was tried from inside before its program ran, and failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import trio

from groove_trio.providers.base import Launch, Place
from groove_trio.rules import bpf
from groove_trio.shell.agent import Agent
from groove_trio.shell.census import Census
from groove_trio.shell.gate import Gate
from groove_trio.shell.gates import Gates
from groove_trio.shell.kernel import Kernel, architecture, probe
from groove_trio.shell.process import Tree
from groove_trio.shell.sandbox import Confinement, open_confined
from groove_trio.shell.wall import build_wall
from groove_trio.words.agents import Containment

UNPROBED = Kernel(("hooks",), {}, (), 0)


@dataclass(slots=True)
class Confining:
    """Starts programs behind gate and wall.

    Attributes:
        project: The project root, absolute, without links.
        census: Where trees are enrolled.
        gates: Where gates are opened.
        state: The daemon's own directory in the project, absolute.
        hidden: Absolute paths that agents must not read.
        kernel: What there is to hold agents with; ``hooks`` until `probe` has looked.
    """

    project: str
    census: Census
    gates: Gates
    state: str
    hidden: Sequence[str]
    kernel: Kernel = field(default=UNPROBED)

    async def probe(self) -> None:
        """Finds out what this kernel holds agents with; takes about a tenth of a second.

        Call it before anybody looks after the processes of agents: what it starts belongs to
        none, and as long as there were none, callers need not be told from agents.
        """
        self.kernel = await probe(Census())

    def levels(self) -> Sequence[Containment]:
        """What agents can be held to, strongest first."""
        return self.kernel.levels

    def missing(self) -> Mapping[Containment, str]:
        """What each other level needs that this kernel lacks, in words."""
        return self.kernel.missing

    async def open(  # noqa: PLR0917 - what a start has worked out by then
        self,
        agent: Agent,
        launch: Launch,
        place: Place,
        env: Mapping[str, str],
        cwd: int,
        descriptor_limit: int | None,
    ) -> Tree:
        """Starts an agent's program behind what it is held to; returns when exec has succeeded.

        The agent's record then says how its patterns are held, and what its canary met.

        Raises:
            SpawnFailed, OutOfResources: As `open_confined`.
        """
        level = agent.status.containment
        assert level != "hooks"
        wall = await trio.to_thread.run_sync(
            lambda: build_wall(
                level=level,
                project=self.project,
                tmp=place.tmp,
                patterns=agent.spec.patterns,
                hidden=self.hidden,
                version=self.kernel.landlock,
                states=launch.state,
            )
        )
        gates: list[Gate] = []

        async def listening(_: Tree, listener: int) -> None:
            gates.append(self.gates.open(agent.id, listener, place.tmp, launch.state))
            await trio.lowlevel.checkpoint()

        machine = architecture()
        assert machine is not None  # else no level but hooks is available
        confined = await open_confined(
            argv=launch.argv,
            cwd=cwd,
            env={**caches(place.tmp), **env},
            agent=agent.id,
            census=self.census,
            confinement=Confinement(
                wall.ruleset,
                bpf.program(machine, notify=level == "gate"),
                notify=level == "gate",
                canary=self.state,
            ),
            listening=listening,
            descriptor_limit=descriptor_limit,
        )
        for gate in gates:
            gate.testing = False
        agent.found(list(wall.patterns), confined.canary, self.kernel.landlock)
        return confined.tree


def caches(tmp: str) -> dict[str, str]:
    """Variables that lead programs' caches to where an agent may write; a spec's own win.

    They are those of programs that do not ask for ``XDG_CACHE_HOME``. Python is told to keep no
    compiled modules: it would try to beside every module that it imports, also where it may
    not, and each time that would be a denial on record.
    """
    return {
        "XDG_CACHE_HOME": f"{tmp}/cache",
        "BUN_INSTALL_CACHE_DIR": f"{tmp}/cache/bun",
        "CARGO_HOME": f"{tmp}/cache/cargo",
        "CCACHE_DIR": f"{tmp}/cache/ccache",
        "GOMODCACHE": f"{tmp}/cache/go-mod",
        "GRADLE_USER_HOME": f"{tmp}/cache/gradle",
        "NUGET_PACKAGES": f"{tmp}/cache/nuget",
        "PIP_CACHE_DIR": f"{tmp}/cache/pip",
        "YARN_GLOBAL_FOLDER": f"{tmp}/cache/yarn",
        "npm_config_cache": f"{tmp}/cache/npm",
        "LESSHISTFILE": "-",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
