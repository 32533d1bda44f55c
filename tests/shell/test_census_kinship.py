"""Attribution, decided on looks made by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from groove_trio.shell.kinship import Kinship, Roll
from groove_trio.shell.procfs import Process, parse_stat
from groove_trio.words.base import AgentId

ME = 100
OWN_SESSION = 90
A = AgentId("aaaaaaaa")
B = AgentId("bbbbbbbb")


def process(
    pid: int,
    parent: int,
    session: int,
    *,
    start: int = 0,
    state: str = "S",
    threads: int = 1,
) -> Process:
    return Process(pid, parent, session, session, start or pid, state, threads)


ROOT = process(200, ME, 200)


@dataclass
class World:
    """A kinship and the tags that it can read."""

    tags: dict[int, AgentId] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.kinship = Kinship(ME, OWN_SESSION, self.read)
        self.kinship.claim(ROOT, A)

    def read(self, asked: Process) -> AgentId | None:
        self.asked.append(asked.pid)
        return self.tags.get(asked.pid)

    def look(self, *processes: Process) -> Roll:
        return self.kinship.settle({one.pid: one for one in processes})

    def pids(self, *processes: Process) -> list[int]:
        return sorted(one.pid for one in self.look(*processes).members.get(A, []))


def test_a_root_and_its_descendants_belong() -> None:
    child, grandchild = process(201, 200, 200), process(202, 201, 202)
    assert World().pids(ROOT, child, grandchild, process(300, 1, 300)) == [200, 201, 202]


def test_the_order_in_the_listing_does_not_matter() -> None:
    child, grandchild = process(201, 200, 201), process(202, 201, 202)
    assert World().pids(grandchild, child, ROOT) == [200, 201, 202]


def test_who_shares_the_root_s_session_belongs_without_a_parent() -> None:
    assert World().pids(ROOT, process(201, ME, 200)) == [200, 201]
    assert World().pids(ROOT, process(201, 1, 200)) == [200, 201]


def test_who_was_seen_once_stays_whatever_it_does() -> None:
    world = World()
    world.look(ROOT, process(201, 200, 200))
    gone_own_way = process(201, 1, 201)
    assert world.pids(gone_own_way) == [201]
    assert world.pids(gone_own_way, process(202, 1, 201)) == [201, 202]


def test_a_pid_given_out_again_inherits_nothing() -> None:
    world = World()
    world.look(ROOT, process(201, 200, 200))
    assert world.pids(ROOT, process(201, 1, 201, start=5000)) == [200]


def test_a_session_number_given_out_again_inherits_nothing() -> None:
    world = World()
    world.look(ROOT, process(201, 200, 201))
    assert world.pids(ROOT, process(201, 1, 201, start=5000), process(202, 201, 201)) == [200]


def test_an_adopted_process_is_claimed_by_its_tag() -> None:
    world = World(tags={300: A})
    assert world.pids(ROOT, process(300, ME, 300), process(301, 300, 301)) == [200, 300, 301]


def test_a_tag_counts_only_for_the_adopted() -> None:
    world = World(tags={300: A})
    assert world.pids(ROOT, process(300, 1, 300)) == [200]
    assert world.asked == []


def test_a_tag_of_an_unknown_agent_claims_nothing_until_it_is_known() -> None:
    world = World(tags={300: B})
    adopted = process(300, ME, 300)
    assert world.look(ROOT, adopted).strangers == [adopted]
    world.kinship.know([B])
    assert world.look(ROOT, adopted).members[B] == [adopted]


def test_the_environment_of_a_stranger_is_read_once() -> None:
    world = World()
    for _ in range(3):
        world.look(ROOT, process(300, ME, 300))
    assert world.asked == [300]


def test_our_own_session_is_never_claimed_and_never_strange() -> None:
    world = World(tags={300: A})
    roll = world.look(ROOT, process(300, ME, OWN_SESSION))
    assert [one.pid for one in roll.members[A]] == [200]
    assert roll.strangers == []


def test_those_above_us_are_nobody_s_though_tagged() -> None:
    world = World(tags={50: A})
    above, me = process(50, 1, 50), process(ME, 50, OWN_SESSION)
    processes = {one.pid: one for one in (above, me, ROOT)}
    assert world.kinship.ancestors(processes) == {50, 1, ME}
    assert world.pids(above, me, ROOT) == [200]


def test_a_parent_younger_than_its_child_is_another_process() -> None:
    world = World()
    child = process(400, 200, 400, start=150)
    assert world.pids(ROOT, child) == [200]


def test_a_circle_of_parents_ends() -> None:
    one, other = process(400, 401, 400, start=7), process(401, 400, 401, start=7)
    assert World().pids(ROOT, one, other) == [200]


def test_the_dead_count_in_the_look_that_first_shows_them_only() -> None:
    world = World()
    late = process(201, ME, 200, state="Z")
    assert world.pids(ROOT, late) == [200, 201]
    assert world.pids(ROOT, late) == [200]


def test_a_root_that_ended_does_not_count() -> None:
    world = World()
    assert world.pids(ROOT._replace(state="Z")) == []


def test_a_zombie_with_living_threads_lives() -> None:
    world = World()
    assert world.pids(ROOT._replace(state="Z", threads=2)) == [200]


def test_dead_strangers_make_a_look_elusive_once() -> None:
    world = World()
    dead = process(300, ME, 300, state="Z")
    assert world.look(ROOT, dead).elusive
    assert not world.look(ROOT, dead).elusive
    assert not world.look(ROOT, process(301, ME, 301)).elusive


def test_only_what_a_program_can_fork_itself_is_not_surely_adopted() -> None:
    kinship = World().kinship
    assert not kinship.adopted(process(300, ME, OWN_SESSION))
    assert not kinship.adopted(process(300, ME, 300))
    assert kinship.adopted(process(300, ME, 299))
    assert kinship.adopted(ROOT)


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=30), st.randoms())
def test_a_forest_is_split_exactly_at_its_roots(
    shape: list[tuple[int, bool]], random: object
) -> None:
    everybody = [ROOT, process(190, 1, 190)]
    expected = {ROOT.pid}
    for number, (choice, new_session) in enumerate(shape):
        parent = everybody[choice % len(everybody)]
        pid = 1000 + number
        everybody.append(process(pid, parent.pid, pid if new_session else parent.session))
        if parent.pid in expected:
            expected.add(pid)
    random.shuffle(everybody)  # type: ignore[attr-defined]
    assert set(World().pids(*everybody)) == expected


def test_a_command_name_with_brackets_and_spaces_is_skipped() -> None:
    fields = "S 1 7 8 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 3 0 4242 9 9 9"
    assert parse_stat(f"77 (a) b) (c) {fields}\n".encode()) == Process(77, 1, 7, 8, 4242, "S", 3)
