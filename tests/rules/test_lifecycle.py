from __future__ import annotations

from itertools import product
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groove_trio.rules.lifecycle import (
    FINAL,
    LIVE,
    TRANSITIONS,
    Backoff,
    Park,
    RestartIn,
    Stay,
    Trigger,
    diagram,
    step,
)
from groove_trio.words.agents import AgentState, Restart
from groove_trio.words.errors import WrongState

STATES: tuple[AgentState, ...] = get_args(AgentState)
TRIGGERS: tuple[Trigger, ...] = get_args(Trigger)


def reachable(start: AgentState) -> set[AgentState]:
    seen: set[AgentState] = {start}
    todo: list[AgentState] = [start]
    while todo:
        here = todo.pop()
        for (before, _), after in TRANSITIONS.items():
            if before == here and after not in seen:
                seen.add(after)
                todo.append(after)
    return seen


def test_states_are_live_final_or_interrupted() -> None:
    assert LIVE | FINAL | {"interrupted"} == set(STATES)
    assert not LIVE & FINAL


@pytest.mark.parametrize(("state", "trigger"), list(product(STATES, TRIGGERS)))
def test_step_follows_the_table_and_refuses_the_rest(state: AgentState, trigger: Trigger) -> None:
    if (state, trigger) in TRANSITIONS:
        assert step(state, trigger) == TRANSITIONS[state, trigger]
        return
    with pytest.raises(WrongState) as caught:
        step(state, trigger)
    assert caught.value.fields["state"] == state
    assert trigger not in caught.value.fields["allowed"]
    assert state in caught.value.detail


def test_every_trigger_is_used_and_every_state_is_reached() -> None:
    assert {trigger for (_, trigger) in TRANSITIONS} == set(TRIGGERS)
    assert reachable("starting") == set(STATES)


@pytest.mark.parametrize("state", STATES)
def test_a_final_state_can_be_reached_from_everywhere(state: AgentState) -> None:
    assert reachable(state) & FINAL


@pytest.mark.parametrize("state", sorted(LIVE))
def test_live_states_can_be_crashed_interrupted_and_stopped(state: AgentState) -> None:
    assert step(state, "crashed") == "failed"
    assert step(state, "interrupted") == "interrupted"
    if state != "stopping":
        assert step(state, "stop") in {"stopping", "stopped"}


@pytest.mark.parametrize("state", sorted(FINAL))
def test_a_final_state_is_left_by_restart_alone(state: AgentState) -> None:
    ways = {t: after for (before, t), after in TRANSITIONS.items() if before == state}
    assert ways.pop("restart") == "starting"
    assert ways in ({}, {"stop": "stopped"})  # stop lays a parked agent to rest


def test_interrupted_is_entered_from_live_states_only() -> None:
    before = {b for (b, _), after in TRANSITIONS.items() if after == "interrupted"}
    assert before == LIVE


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS["starting", "started"] = "failed"  # type: ignore[index]


def test_diagram_shows_every_edge_once() -> None:
    text = diagram()
    assert text.startswith("stateDiagram-v2\n")
    for (before, trigger), after in TRANSITIONS.items():
        edge = f"    {before.replace('-', '_')} --> {after.replace('-', '_')} : "
        [line] = [line for line in text.splitlines() if line.startswith(edge)]
        assert line.removeprefix(edge).split(", ").count(trigger) == 1


# Starting again

ALWAYS = Restart(mode="always", jitter=0, stable_s=1000)


@pytest.mark.parametrize(
    ("mode", "ok", "expected"),
    [
        ("never", True, Stay("completed")),
        ("never", False, Stay("failed")),
        ("on-failure", True, Stay("completed")),
        ("on-failure", False, RestartIn(1.0, 1)),
        ("always", True, RestartIn(1.0, 1)),
        ("always", False, RestartIn(1.0, 1)),
    ],
)
def test_mode_decides_whether_it_restarts(mode: str, ok: bool, expected: object) -> None:
    backoff = Backoff(Restart(mode=mode, jitter=0))  # type: ignore[arg-type]
    assert backoff.on_exit(1.0, 0.0, ok=ok, draw=0.5) == expected


def test_waits_double_up_to_the_cap() -> None:
    policy = Restart(mode="always", first_s=1, cap_s=10, jitter=0, max_restarts=1000)
    backoff = Backoff(policy)
    waits = [backoff.on_exit(0.0, 0.0, ok=False, draw=0.3) for _ in range(6)]
    assert waits == [RestartIn(w, n) for n, w in enumerate([1, 2, 4, 8, 10, 10], 1)]


@pytest.mark.parametrize(("draw", "wait"), [(0.0, 7.5), (0.5, 10.0), (1.0, 12.5)])
def test_jitter_spreads_around_the_wait(draw: float, wait: float) -> None:
    backoff = Backoff(Restart(mode="always", first_s=10, jitter=0.25))
    assert backoff.on_exit(0.0, 0.0, ok=False, draw=draw) == RestartIn(wait, 1)


def test_one_restart_too_many_within_the_period_parks_with_the_reason() -> None:
    backoff = Backoff(Restart(mode="always", max_restarts=3, period_s=60, jitter=0))
    for number in (1, 2, 3):
        decision = backoff.on_exit(number * 1.0, number * 1.0, ok=False, draw=0)
        assert isinstance(decision, RestartIn)
    parked = backoff.on_exit(4.0, 4.0, ok=False, draw=0)
    assert parked == Park(
        "ended again after 3 restarts within 60 s, the most that its policy allows"
    )


def test_restarts_older_than_the_period_are_forgiven() -> None:
    backoff = Backoff(Restart(mode="always", max_restarts=2, period_s=10, jitter=0))
    for now in (0.0, 5.0, 10.0, 15.0, 20.0):
        assert isinstance(backoff.on_exit(now, now, ok=False, draw=0), RestartIn)


def test_no_restarts_allowed_parks_at_once() -> None:
    backoff = Backoff(Restart(mode="on-failure", max_restarts=0))
    assert isinstance(backoff.on_exit(0.0, 0.0, ok=False, draw=0), Park)


def test_a_stable_run_starts_waits_and_count_anew_and_a_short_one_does_not() -> None:
    backoff = Backoff(
        Restart(mode="always", stable_s=30, jitter=0, max_restarts=3, period_s=86_400)
    )
    assert backoff.on_exit(0.0, 0.0, ok=True, draw=0) == RestartIn(1.0, 1)
    assert backoff.on_exit(30.0, 0.5, ok=True, draw=0) == RestartIn(2.0, 2)  # 29.5 s
    assert backoff.on_exit(70.0, 40.0, ok=True, draw=0) == RestartIn(1.0, 1)  # 30 s
    assert backoff.on_exit(70.0, 70.0, ok=True, draw=0) == RestartIn(2.0, 2)


def test_a_program_that_cannot_be_started_is_never_stable() -> None:
    backoff = Backoff(Restart(mode="always", stable_s=0, max_restarts=1, jitter=0))
    assert backoff.on_exit(0.0, None, ok=False, draw=0) == RestartIn(1.0, 1)
    assert isinstance(backoff.on_exit(1.0, None, ok=False, draw=0), Park)


def test_reset_forgets_everything() -> None:
    backoff = Backoff(Restart(mode="always", max_restarts=1, jitter=0, stable_s=1000))
    assert backoff.on_exit(0.0, 0.0, ok=False, draw=0) == RestartIn(1.0, 1)
    backoff.reset()
    assert backoff.on_exit(0.0, 0.0, ok=False, draw=0) == RestartIn(1.0, 1)


policies = st.builds(
    Restart,
    mode=st.sampled_from(["on-failure", "always"]),
    first_s=st.floats(0.01, 3600),
    cap_s=st.floats(0.01, 86_400),
    jitter=st.floats(0, 1),
    max_restarts=st.integers(0, 20),
    period_s=st.floats(1, 86_400),
    stable_s=st.floats(0, 86_400),
)
runs = st.lists(
    st.tuples(st.floats(0, 10_000), st.floats(0, 1)),  # how long it ran, the draw
    max_size=60,
)


@given(policies, runs)
def test_no_run_of_events_restarts_more_often_than_allowed(
    policy: Restart, events: list[tuple[float, float]]
) -> None:
    backoff = Backoff(policy)
    now = 0.0
    since_stable: list[float] = []
    for ran, draw in events:
        started, now = now, now + ran
        if now - started >= policy.stable_s:
            since_stable = []
        match backoff.on_exit(now, started, ok=False, draw=draw):
            case RestartIn(seconds=seconds, number=number):
                since_stable.append(now)
                recent = [t for t in since_stable if t > now - policy.period_s]
                assert len(recent) <= policy.max_restarts
                assert number == len(since_stable)
                whole = min(policy.cap_s, policy.first_s * 2.0 ** min(number - 1, 64))
                assert seconds >= 0
                assert seconds <= whole * (1 + policy.jitter) * (1 + 1e-9)
                assert seconds >= whole * (1 - policy.jitter) * (1 - 1e-9)
                now += seconds
            case Park(reason=reason):
                recent = [t for t in since_stable if t > now - policy.period_s]
                assert len(recent) == policy.max_restarts
                assert reason
                backoff.reset()
                since_stable = []
            case Stay():
                raise AssertionError("a failure under these policies never just stays")


@given(st.integers(1, 5000))
def test_the_wait_stays_finite_however_often_it_restarts(times: int) -> None:
    policy = Restart(
        mode="always", max_restarts=1000, period_s=1, stable_s=86_400, jitter=1, cap_s=86_400
    )
    backoff = Backoff(policy)
    decision: object = None
    for n in range(times):
        decision = backoff.on_exit(n * 2.0, n * 2.0, ok=True, draw=1.0)
    assert isinstance(decision, RestartIn)
    assert 0 < decision.seconds <= 2 * 86_400
