"""The life of an agent: one transition table, and the arithmetic of starting again.

An agent is a state machine whose inputs are *triggers*: what the owner asked for and what the
system saw happen. `TRANSITIONS` is all there is to know about it; the supervisor asks `step`
and never compares states to decide where to go, and the diagram in the documentation is drawn
from the table, so neither can drift from it.

Three groups of states:

- *live* (``starting``, ``running``, ``stopping``, ``backing-off``): a task of the supervisor
  stands behind the agent. Its scope is held.
- *final* (``completed``, ``failed``, ``parked``, ``stopped``): nothing of it runs. Its scope is
  free, and taken anew, if it still can be, when the owner restarts it.
- ``interrupted``: the daemon died while the agent was live. Nobody stands behind it, but its
  work is half done, so its scope stays held until it is resumed, stopped or removed.

Invariants, each tested over the whole table: every live state can be stopped and crashed out
of; a final state is left by ``restart`` alone; ``interrupted`` is only entered from a
live state; every state can be reached; from every state a final one can be reached.

`Backoff` follows two precedents. The waits are the usual truncated exponential back-off with
jitter, so that agents that died together don't come back together. Giving up follows the
restart intensity of Erlang's supervisors: more than N restarts within a period means that
restarting does not help, and the agent is parked with the reason until its owner looks at it.
A run that lasted counts as proof of health and starts the count anew; without that rule an
agent that crashes twice a day would be parked after three days.

Cost: a step is one dictionary look-up; a decision is linear in the restarts remembered, at
most `MAX_REMEMBERED`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

from groove_trio.words.agents import AgentState, Restart
from groove_trio.words.errors import WrongState

Trigger = Literal[
    "started",
    "completed",
    "failed",
    "backed-off",
    "parked",
    "retried",
    "stop",
    "stopped",
    "crashed",
    "interrupted",
    "restart",
    "resume",
]
"""What moves an agent.

``started``: its program runs (exec succeeded). ``completed`` and ``failed``: it ended, or could
not be started, and is not started again. ``backed-off`` and ``parked``: it ended and the restart
policy decided. ``retried``: the wait is over. ``stop``, ``restart``, ``resume``: asked for.
``stopped``: nothing of a stopping agent lives any more. ``crashed``: the task behind the agent
broke. ``interrupted``: found live by a daemon that has just started.
"""

LIVE: Final[frozenset[AgentState]] = frozenset({"starting", "running", "stopping", "backing-off"})
FINAL: Final[frozenset[AgentState]] = frozenset({"completed", "failed", "parked", "stopped"})

_OVER: tuple[AgentState, ...] = ("completed", "failed", "parked", "stopped")
_LIVE: tuple[AgentState, ...] = ("starting", "running", "backing-off", "stopping")


def _table() -> dict[tuple[AgentState, Trigger], AgentState]:
    table: dict[tuple[AgentState, Trigger], AgentState] = {
        ("starting", "started"): "running",
        ("backing-off", "retried"): "starting",
        ("starting", "stop"): "stopping",
        ("running", "stop"): "stopping",
        # Nothing runs in these three, so there is nothing to wait for.
        ("backing-off", "stop"): "stopped",
        ("parked", "stop"): "stopped",
        ("interrupted", "stop"): "stopped",
        ("stopping", "stopped"): "stopped",
        ("interrupted", "resume"): "starting",
        ("interrupted", "restart"): "starting",
        ("backing-off", "restart"): "starting",
    }
    for state in _OVER:
        table[state, "restart"] = "starting"
    for state in _LIVE:
        table[state, "crashed"] = "failed"
        table[state, "interrupted"] = "interrupted"
    ran: tuple[AgentState, ...] = ("starting", "running")  # starting: the program can't be started
    for state in ran:
        table[state, "failed"] = "failed"
        table[state, "backed-off"] = "backing-off"
        table[state, "parked"] = "parked"
    table["running", "completed"] = "completed"
    return table


TRANSITIONS: Final[Mapping[tuple[AgentState, Trigger], AgentState]] = MappingProxyType(_table())
"""From a state, by a trigger, to a state. What is not here cannot happen."""


def step(state: AgentState, trigger: Trigger) -> AgentState:
    """Where `trigger` leads from `state`.

    Raises:
        WrongState: Nowhere; `state` and `allowed` (the triggers that would do) are its fields.
    """
    after = TRANSITIONS.get((state, trigger))
    if after is None:
        allowed = sorted(by for (before, by) in TRANSITIONS if before == state)
        detail = f"an agent that is {state} can't take {trigger!r}; it takes {', '.join(allowed)}"
        raise WrongState(detail, state=state, allowed=allowed)
    return after


def diagram() -> str:
    """The table as a Mermaid ``stateDiagram-v2``, one line an edge, for the documentation."""
    names = {state: state.replace("-", "_") for state in get_args(AgentState)}
    lines = ["stateDiagram-v2"]
    lines += [f"    {name} : {state}" for state, name in names.items() if name != state]
    lines.append("    [*] --> starting : spawn")
    edges: dict[tuple[AgentState, AgentState], list[str]] = {}
    for (before, trigger), after in TRANSITIONS.items():
        edges.setdefault((before, after), []).append(trigger)
    lines += [
        f"    {names[before]} --> {names[after]} : {', '.join(triggers)}"
        for (before, after), triggers in edges.items()
    ]
    removable = (*_OVER, "interrupted")
    lines += [f"    {names[state]} --> [*] : remove" for state in removable]
    return "\n".join(lines) + "\n"


# Starting again

MAX_DOUBLINGS = 64
"""Beyond any cap: keeps ``first_s * 2**n`` a finite float however often an agent restarts."""

MAX_REMEMBERED = 1001
"""One more than the largest `Restart.max_restarts`: what the intensity needs to be judged."""


@dataclass(frozen=True, slots=True)
class RestartIn:
    """Start the agent again after `seconds`; it is restart number `number` since it was stable."""

    seconds: float
    number: int


@dataclass(frozen=True, slots=True)
class Park:
    """Don't start it again until the owner says so, for this `reason`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stay:
    """The policy wants no restart; the agent ends in `state`."""

    state: Literal["completed", "failed"]


class Backoff:
    """What becomes of an agent that ended by itself, by its `Restart` policy.

    Holds the times of past restarts, so one object belongs to one agent. Times are seconds on
    any clock that doesn't jump.
    """

    __slots__ = ("_number", "_times", "policy")

    def __init__(self, policy: Restart) -> None:
        """Begins with no restarts; `policy` may be replaced at any time and counts from then."""
        self.policy = policy
        self._number = 0
        self._times: deque[float] = deque(maxlen=MAX_REMEMBERED)

    def reset(self) -> None:
        """Forgets all restarts, as when the owner restarts the agent."""
        self._number = 0
        self._times.clear()

    def on_exit(
        self, now_s: float, started_s: float | None, *, ok: bool, draw: float
    ) -> RestartIn | Park | Stay:
        """Decides about a run that ended at `now_s`, and counts the restart it decides on.

        Args:
            now_s: When the run ended.
            started_s: When it began; ``None`` when the program could not even be started.
            ok: Whether it ended well (exit status 0).
            draw: A number from 0 to 1 that settles the jitter: 0 the shortest wait, 1 the longest.
        """
        policy = self.policy
        if policy.mode == "never" or (policy.mode == "on-failure" and ok):
            return Stay("completed" if ok else "failed")
        if started_s is not None and now_s - started_s >= policy.stable_s:
            self.reset()
        while self._times and self._times[0] <= now_s - policy.period_s:
            self._times.popleft()
        if len(self._times) >= policy.max_restarts:
            return Park(self._exhausted())
        self._times.append(now_s)
        self._number += 1
        return RestartIn(self._wait(draw), self._number)

    def _wait(self, draw: float) -> float:
        doublings = min(self._number - 1, MAX_DOUBLINGS)
        whole = min(self.policy.cap_s, self.policy.first_s * 2.0**doublings)
        return whole * (1 + self.policy.jitter * (2 * draw - 1))

    def _exhausted(self) -> str:
        policy = self.policy
        if not policy.max_restarts:
            return "ended, and its policy allows no restarts (maxRestarts is 0)"
        return (
            f"ended again after {policy.max_restarts} restarts within {policy.period_s:g} s, "
            "the most that its policy allows"
        )
