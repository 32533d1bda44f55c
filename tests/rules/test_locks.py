"""The lock table: no path ever has two writers, and every denial says the way out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from groove_trio.rules.claims import Claims, condensed, covers
from groove_trio.rules.leases import Leases, moved_lease
from groove_trio.rules.locks import MAX_AGENT_CLAIMS, Barred, Declared, Held, LockTable
from groove_trio.rules.owners import Overlap
from groove_trio.rules.scopes import Scope
from groove_trio.words.base import AgentId
from groove_trio.words.clock import NS, parse_rfc3339, rfc3339
from groove_trio.words.knocks import Denied, Granted
from groove_trio.words.leases import MAX_LEASE_PATHS, MAX_LEASE_S, Lease, LeaseId

NOW = 1_795_367_880 * NS
A, B, C = AgentId("aaaaaaaa"), AgentId("bbbbbbbb"), AgentId("cccccccc")
NAMES = ("a", "b", "[c]")
UNIVERSE = ["/".join(names) for depth in (1, 2, 3) for names in product(NAMES, repeat=depth)]
PATTERNS = (
    "**", "a/**", "a", "a/*", "*/b", "b/**", "**/a", "{a,b}/b/*", "a/b/[!b]*", "?c?/**", "a/b/"
)  # fmt: skip


def table(**scopes: Sequence[str]) -> LockTable:
    """A table in which agents a, b, c hold scopes, under the names of the keywords."""
    locks = LockTable()
    for agent, (name, patterns) in zip((A, B, C), scopes.items(), strict=False):
        assert locks.reserve(agent, name, Scope(patterns)) is None
    return locks


def lease(
    locks: LockTable,
    agent: AgentId,
    *claims: str,
    now: int = NOW,
    ttl_s: float = 600,
    id_: str = "1",
) -> Lease:
    declared = locks.declare(agent, claims, now, ttl_s, "", LeaseId(id_ * 8))
    assert isinstance(declared, Declared)
    return declared.lease


def may_write(locks: LockTable, agent: AgentId, path: str, now: int = NOW) -> bool:
    return isinstance(locks.decide(agent, "write", path, now), Granted)


def refused(locks: LockTable, agent: AgentId, path: str, **more: object) -> Denied:
    decision = locks.decide(agent, more.pop("operation", "write"), path, NOW, **more)  # type: ignore[arg-type]
    assert isinstance(decision, Denied)
    assert decision.path == path
    assert decision.rule
    assert decision.reason
    assert decision.way_out
    return decision


# Scopes


def test_own_scope_is_granted_by_its_pattern() -> None:
    locks = table(web=["docs/**", "src/*.py"])
    assert locks.decide(A, "create", "src/x.py", NOW) == Granted(path="src/x.py", rule="src/*.py")


def test_overlapping_scope_is_refused_with_a_path_both_match() -> None:
    locks = table(web=["src/**"])
    refusal = locks.reserve(B, "api", Scope(["**/main.py"]))
    assert isinstance(refusal, Overlap)
    assert (refusal.owner, refusal.name) == (A, "web")
    assert Scope(["src/**"]).matches(refusal.witness)
    assert Scope(["**/main.py"]).matches(refusal.witness)
    assert not locks.knows(B)


def test_scope_that_overlaps_another_agents_lease_is_refused() -> None:
    locks = table(web=["src/**"], api=["api/**"])
    held = lease(locks, A, "README.md", "docs/")
    for pattern, witness in (("*.md", "README.md"), ("README.md", "README.md"), ("docs/x", None)):
        refusal = locks.reserve(C, "c", Scope([pattern]))
        assert isinstance(refusal, Overlap)
        assert (refusal.owner, refusal.by) == (A, f"lease {held.id}")
        assert witness is None or refusal.witness == witness
        assert Scope([pattern]).matches(refusal.witness)


def test_reserving_the_same_scope_again_changes_nothing() -> None:
    locks = table(web=["src/**"])
    assert locks.reserve(A, "site", Scope(["src/**"])) is None
    assert [holding.name for holding in locks.view().holdings] == ["site"]
    with pytest.raises(ValueError, match="another scope"):
        locks.reserve(A, "web", Scope(["docs/**"]))


def test_scope_is_free_after_release_and_the_leases_with_it() -> None:
    locks = table(web=["src/**"])
    held = lease(locks, A, "README.md")
    assert locks.release(A) == [held]
    assert locks.release(A) == []
    assert locks.reserve(B, "api", Scope(["**"])) is None
    assert may_write(locks, B, "README.md")


def test_read_only_agent_may_read_and_lease_but_not_write() -> None:
    locks = table(reader=[])
    assert isinstance(locks.decide(A, "read", "src/x.py", NOW), Granted)
    assert not may_write(locks, A, "src/x.py")
    lease(locks, A, "src/x.py")
    assert may_write(locks, A, "src/x.py")


# Denials


def test_unknown_agent_is_denied_everything() -> None:
    locks = table(web=["**"])
    for operation in ("read", "write", "create", "delete", "rename", "metadata"):
        assert refused(locks, B, "src/x.py", operation=operation).rule == "unknown agent"


def test_denial_names_the_owner_of_a_scope() -> None:
    denied = refused(table(web=["src/**"], api=["api/**"]), B, "src/x.py")
    assert denied.owner == A
    assert denied.until is None
    assert "web" in denied.reason
    assert "web" in denied.way_out


def test_denial_names_the_owner_of_a_lease_and_its_end() -> None:
    locks = table(web=["src/**"], api=["api/**"])
    held = lease(locks, A, "README.md")
    denied = refused(locks, B, "README.md")
    assert (denied.owner, denied.until, denied.rule) == (A, held.until, f"lease {held.id}")


def test_denial_of_what_nobody_owns_shows_how_to_lease_it() -> None:
    denied = refused(table(web=["src/**"]), A, "README.md")
    assert denied.owner is None
    assert denied.way_out == "Declare a lease: groove-trio declare README.md"


def test_root_itself_is_nobodys() -> None:
    assert refused(table(web=["**"]), A, "", operation="metadata").owner is None


@pytest.mark.parametrize(
    "path",
    [".git/hooks/pre-commit", ".git/config", ".groove/daemon.json", ".groove", "CLAUDE.md",
     ".claude/settings.json", ".github/workflows/ci.yml", ".envrc", ".mcp.json"],
)  # fmt: skip
def test_protected_name_is_denied_inside_the_own_scope(path: str) -> None:
    locks = table(web=["**"])
    assert refused(locks, A, path).rule.startswith("protected ")


def test_protected_name_that_the_scope_names_literally_is_granted() -> None:
    locks = table(web=["**", "CLAUDE.md", ".git/hooks/**"])
    assert may_write(locks, A, "CLAUDE.md")
    assert may_write(locks, A, ".git/hooks/pre-commit")
    assert not may_write(locks, A, "AGENTS.md")


def test_reads_are_granted_except_of_our_own_state() -> None:
    locks = table(web=[])
    assert isinstance(locks.decide(A, "read", "CLAUDE.md", NOW), Granted)
    assert isinstance(locks.decide(A, "read", ".groovey", NOW), Granted)
    assert refused(locks, A, ".groove/agents/bbbbbbbb/spec.json", operation="read").rule == (
        "hidden .groove/**"
    )
    assert refused(locks, A, ".groove", operation="read")


def test_own_temporary_directory_is_the_agents_alone() -> None:
    locks = table(web=[], api=["**"])
    for operation in ("read", "create", "delete"):
        path = f".groove/agents/{A}/tmp/x"
        assert isinstance(locks.decide(A, operation, path, NOW), Granted)  # type: ignore[arg-type]
        assert isinstance(locks.decide(B, operation, path, NOW), Denied)  # type: ignore[arg-type]
    assert isinstance(locks.decide(A, "delete", f".groove/agents/{A}/tmp", NOW), Denied)


# What goes with a directory


@pytest.mark.parametrize("directory", [".git", ".github", ".vscode"])
def test_directory_with_a_protected_name_in_it_stays(directory: str) -> None:
    locks = table(web=["**"])
    assert refused(locks, A, directory, operation="rename", deep=True).rule.startswith("protected")
    assert isinstance(locks.decide(A, "rename", "src", NOW, deep=True), Granted)


def test_directory_with_anothers_scope_in_it_stays() -> None:
    locks = table(web=["src/*"], api=["src/api/**"])
    assert refused(locks, A, "src/api", operation="rename", deep=True).owner == B
    assert isinstance(locks.decide(A, "rename", "src/lib", NOW, deep=True), Granted)
    assert isinstance(locks.decide(A, "rename", "src/api", NOW), Granted)


def test_directory_with_anothers_lease_in_it_stays() -> None:
    locks = table(web=["src/*"], api=[])
    held = lease(locks, B, "src/api/x.py")
    assert refused(locks, A, "src/api", operation="rename", deep=True).rule == f"lease {held.id}"


def test_leased_directory_may_be_moved_whole() -> None:
    locks = table(web=["src/*"], api=[])
    lease(locks, B, "docs/")
    assert isinstance(locks.decide(B, "rename", "docs", NOW, deep=True), Granted)


# Leases


def test_lease_lets_its_agent_write_until_it_runs_out() -> None:
    locks = table(web=[])
    held = lease(locks, A, "README.md", ttl_s=1)
    assert held.until == rfc3339(NOW + NS)
    assert locks.decide(A, "write", "README.md", NOW + NS - 1) == Granted(
        path="README.md", rule=f"lease {held.id}"
    )
    assert not may_write(locks, A, "README.md", NOW + NS)
    assert locks.leases.next_expiry() == NOW + NS
    assert locks.leases.due(NOW + NS - 1) == []
    assert locks.leases.due(NOW + NS) == [held]


def test_lease_that_ran_out_no_longer_shows_in_denials() -> None:
    locks = table(web=[], api=[])
    lease(locks, A, "README.md", ttl_s=1)
    denied = locks.decide(B, "write", "README.md", NOW + NS)
    assert isinstance(denied, Denied)
    assert denied.owner is None


def test_lease_on_a_name_covers_that_name_only() -> None:
    locks = table(web=[])
    lease(locks, A, "docs")
    assert may_write(locks, A, "docs")
    assert not may_write(locks, A, "docs/x.md")


def test_lease_on_a_directory_covers_it_and_all_beneath() -> None:
    locks = table(web=[])
    lease(locks, A, "docs/")
    for path in ("docs", "docs/x.md", "docs/a/b/c"):
        assert may_write(locks, A, path)
    for path in ("docs-old", "docs-old/x", "doc", "docs.md", "a/docs"):
        assert not may_write(locks, A, path)


def test_lease_does_not_lift_protection() -> None:
    locks = table(web=[])
    lease(locks, A, ".github/")
    assert may_write(locks, A, ".github/dependabot.yml")
    assert refused(locks, A, ".github/workflows/ci.yml").rule == "protected .github/workflows/**"


@pytest.mark.parametrize("claim", ["CLAUDE.md", ".git/hooks/", ".git/hooks/x", ".groove/", "/"])
def test_protected_name_and_the_whole_project_cannot_be_leased(claim: str) -> None:
    assert isinstance(table(web=[]).declare(A, [claim], NOW, 1, "", LeaseId("1")), Barred)


def test_path_in_anothers_scope_cannot_be_leased() -> None:
    locks = table(web=["src/**"], api=["api/*"])
    for claim in ("src/x.py", "src/", "src/a/"):
        held = locks.declare(B, [claim], NOW, 1, "", LeaseId("1"))
        assert held == Held(A, "web", claim, None, "its scope")
    assert isinstance(locks.declare(A, ["api/"], NOW, 1, "", LeaseId("1")), Held)
    assert isinstance(locks.declare(A, ["api/a/b"], NOW, 1, "", LeaseId("1")), Declared)


def test_path_in_the_own_scope_may_be_leased() -> None:
    locks = table(web=["src/**"])
    lease(locks, A, "src/x.py", "src/a/")
    assert may_write(locks, A, "src/x.py")


@pytest.mark.parametrize(
    ("first", "second"),
    [("x", "x"), ("x/", "x"), ("x", "x/"), ("x/", "x/a/b"), ("x/a/b", "x/"), ("x/a/", "x/")],
)
def test_leases_of_two_agents_never_share_a_path(first: str, second: str) -> None:
    locks = table(web=[], api=[])
    held = lease(locks, A, first)
    refusal = locks.declare(B, ["free", second], NOW, 600, "", LeaseId("2"))
    assert refusal == Held(A, "web", second, held.until, f"lease {held.id}")
    assert not may_write(locks, B, "free"), "all or nothing"
    locks.drop([held])
    assert isinstance(locks.declare(B, [second], NOW, 600, "", LeaseId("2")), Declared)


def test_declaring_again_renews() -> None:
    locks = table(web=[])
    first = lease(locks, A, "x", ttl_s=10)
    second = locks.declare(A, ["x", "y/"], NOW, 100, "", LeaseId("2"))
    assert isinstance(second, Declared)
    assert second.replaced == (first,)
    assert list(locks.leases) == [second.lease]
    assert locks.leases.next_expiry() == NOW + 100 * NS


def test_own_lease_is_never_split() -> None:
    locks = table(web=[])
    first = lease(locks, A, "x", "y/")
    for claims in (["x"], ["y/a"], ["y/"]):
        assert isinstance(locks.declare(A, claims, NOW, 1, "", LeaseId("2")), Held)
    assert list(locks.leases) == [first]


def test_taking_a_declaration_back_restores_what_it_replaced() -> None:
    locks = table(web=[])
    first = lease(locks, A, "x")
    second = locks.declare(A, ["x", "y"], NOW, 100, "", LeaseId("2"))
    assert isinstance(second, Declared)
    locks.undeclare(second)
    assert list(locks.leases) == [first]
    locks.undeclare(second)
    assert list(locks.leases) == [first]


def test_paths_covered_by_others_of_the_same_request_count_once() -> None:
    assert lease(table(web=[]), A, "x/a", "x/", "x", "x/", "y").paths == ["x/", "y"]


def test_agent_may_lease_only_so_many_paths() -> None:
    locks = table(web=[], api=[])
    for number in range(MAX_AGENT_CLAIMS // MAX_LEASE_PATHS):
        paths = [f"p{number}-{index}" for index in range(MAX_LEASE_PATHS)]
        lease(locks, A, *paths, id_=str(number))
    assert isinstance(locks.declare(A, ["more"], NOW, 1, "", LeaseId("x")), Barred)
    assert isinstance(locks.declare(A, paths, NOW, 1, "", LeaseId("x")), Declared), "renewing"
    assert isinstance(locks.declare(B, ["more"], NOW, 1, "", LeaseId("y")), Declared)


def test_leases_are_completed_by_their_agent_only() -> None:
    locks = table(web=[], api=[])
    one, two = lease(locks, A, "x", id_="1"), lease(locks, A, "y", id_="2")
    assert locks.leases_of(A) == [one, two]
    assert locks.leases_of(A, one.id) == [one]
    assert locks.leases_of(B, one.id) == []
    assert locks.leases_of(C) == []


def test_leases_of_an_earlier_run_are_taken_up_where_they_still_fit() -> None:
    old = table(web=["src/**"], api=[], gone=[])
    fits = lease(old, A, "x", "d/", id_="1")
    late = lease(old, A, "y", ttl_s=1, id_="2")
    orphan = lease(old, C, "z", id_="3")
    times = {"since": fits.since, "until": fits.until}
    broken = Lease(id=LeaseId("4"), agent=A, paths=["w"], since=fits.since, until="soon")
    taken = Lease(id=LeaseId("5"), agent=B, paths=["d/e"], **times)
    owned = Lease(id=LeaseId("6"), agent=B, paths=["src/"], **times)
    long = lease(old, A, "l", ttl_s=MAX_LEASE_S + 1, id_="7")
    unfit = [late, orphan, broken, fits, taken, owned, long]
    locks = table(web=["src/**"], api=[])
    dropped, moved = locks.restore([fits, *unfit], NOW + NS)
    assert list(locks.leases) == [fits]
    assert [each for each, _ in dropped] == unfit
    assert all(why for _, why in dropped)
    assert moved == []
    assert may_write(locks, A, "d/e")


@pytest.mark.parametrize("back_s", [1, 86_400, 10 * 86_400])
def test_a_lease_taken_up_after_the_clock_was_set_back_lasts_as_long_as_it_was_to(
    back_s: int,
) -> None:
    old = table(web=["src/**"], api=[])
    ahead = lease(old, A, "x", ttl_s=60)
    locks = table(web=["src/**"], api=[])
    now = NOW - back_s * NS
    dropped, moved = locks.restore([ahead], now)
    assert dropped == []
    assert list(locks.leases) == moved
    assert [(each.since, each.until) for each in moved] == [(rfc3339(now), rfc3339(now + 60 * NS))]
    assert locks.leases.next_expiry() == now + 60 * NS
    assert may_write(locks, A, "x", now)
    assert not may_write(locks, A, "x", now + 60 * NS)


@given(st.lists(st.sampled_from([-86_400, -600, -1, 1, 600, 86_400]), max_size=200))
def test_leases_that_are_moved_run_out_when_they_say_in_bounded_memory(steps: list[int]) -> None:
    locks = table(web=[], api=[])
    held = [lease(locks, A, "x", ttl_s=60, id_="1"), lease(locks, B, "y", ttl_s=90, id_="2")]
    now = NOW
    for step in steps:
        now += step * NS
        held = [moved_lease(each, step * NS) for each in held]
        locks.move_leases(held)
    assert list(locks.leases) == held
    assert locks.leases.next_expiry() == now + 60 * NS
    assert locks.leases.due(now + 60 * NS) == held[:1]
    assert locks.leases.pending <= 2 * len(held) + Leases.SLACK
    locks.drop(held[:1])
    assert locks.leases.next_expiry() == now + 90 * NS


def test_names_with_pattern_characters_are_leased_literally() -> None:
    locks = table(web=["app/x/**"], api=[])
    odd = ["app/[id]/page.tsx", "a*b", "{x}", "!n", "~t", "q?", "back\\slash", "tab\there"]
    lease(locks, B, *odd)
    assert may_write(locks, B, "a*b")
    assert not may_write(locks, B, "aXb")
    lease(locks, B, *(f"{path}.d/" for path in odd), id_="2")
    assert may_write(locks, B, "a*b.d/x")
    long = "/".join(["n" * 90] * 4)
    lease(locks, B, f"{long}/", id_="3")
    assert may_write(locks, B, f"{long}/x")
    assert isinstance(locks.reserve(C, "c", Scope(["n*/**/x"])), Overlap)


# Explanations


def test_explanation_tells_who_may_write() -> None:
    locks = table(web=["src/**", "CLAUDE.md"], api=[])
    held = lease(locks, B, "README.md")
    by_scope = locks.explain("src/x.py", NOW, exists=True)
    assert (by_scope.owner, by_scope.owner_name, by_scope.pattern) == (A, "web", "src/**")
    by_lease = locks.explain("README.md", NOW, exists=False)
    assert (by_lease.owner, by_lease.lease) == (B, held)
    free = locks.explain("docs/x", NOW, exists=False)
    assert (free.owner, free.lease, free.protected_by) == (None, None, None)
    assert "protected" in locks.explain("AGENTS.md", NOW, exists=False).summary
    assert locks.explain("CLAUDE.md", NOW, exists=True).summary.startswith("web may write it")
    assert ".groove/**" in free.protected_patterns


# Claims

claim_texts = st.sampled_from(UNIVERSE + [f"{path}/" for path in UNIVERSE])


@given(st.lists(claim_texts, max_size=12), claim_texts)
def test_claims_agree_with_a_plain_search(wanted: list[str], probe: str) -> None:
    claims, held = Claims(), {}
    for number, claim in enumerate(wanted):
        rivals = {
            lease for other, lease in held.items() if covers(other, claim) or covers(claim, other)
        }
        assert claims.touching(claim) == rivals
        if not rivals:
            claims.add(claim, LeaseId(str(number)))
            held[claim] = LeaseId(str(number))
    path = probe.removesuffix("/")
    assert claims.holding(path) == next(
        (lease for claim, lease in held.items() if covers(claim, path)), None
    )
    assert dict(claims.beneath(f"{path}/")) == {
        claim: lease for claim, lease in held.items() if claim.startswith(f"{path}/")
    }
    for claim in held:
        claims.remove(claim)
    assert len(claims) == 0
    assert claims.holding(path) is None


@given(st.lists(claim_texts, max_size=8))
def test_condensed_covers_the_same_paths(wanted: list[str]) -> None:
    kept = condensed(wanted)
    for path in UNIVERSE:
        assert any(covers(c, path) for c in kept) == any(covers(c, path) for c in wanted)
    assert not any(a != b and covers(a, b) for a in kept for b in kept)


# All of it at once

agents = st.sampled_from([A, B, C])


class OneWriter(RuleBasedStateMachine):
    """Random lives of a table beside a model that knows only sets of paths."""

    def __init__(self) -> None:
        super().__init__()
        self.locks = LockTable()
        self.scopes: dict[AgentId, Scope] = {}
        self.held: dict[LeaseId, tuple[AgentId, frozenset[str], int]] = {}
        self.now = NOW
        self.count = 0

    def owned(self, agent: AgentId) -> set[str]:
        own = {
            path for path in UNIVERSE if agent in self.scopes and self.scopes[agent].matches(path)
        }
        for owner, paths, until in self.held.values():
            if owner == agent and until > self.now:
                own |= paths
        return own

    def expire(self) -> None:
        due = self.locks.leases.due(self.now)
        assert {each.id for each in due} == {
            lease for lease, (_, _, until) in self.held.items() if until <= self.now
        }
        self.locks.drop(due)
        for each in due:
            del self.held[each.id]

    @rule(agent=agents, patterns=st.lists(st.sampled_from(PATTERNS), max_size=3))
    def reserve(self, agent: AgentId, patterns: list[str]) -> None:
        assume(agent not in self.scopes)
        self.expire()
        scope = Scope(patterns)
        refusal = self.locks.reserve(agent, agent[0], scope)
        mine = {path for path in UNIVERSE if scope.matches(path)}
        clash = any(mine & self.owned(other) for other in (A, B, C))
        if refusal is None:
            assert not clash
            self.scopes[agent] = scope
        else:
            assert scope.matches(refusal.witness)
            if refusal.witness in UNIVERSE:
                assert refusal.witness in self.owned(refusal.owner)

    @rule(
        agent=agents,
        claims=st.lists(claim_texts, min_size=1, max_size=3),
        ttl_s=st.sampled_from([1, 10, 100]),
    )
    def declare(self, agent: AgentId, claims: list[str], ttl_s: int) -> None:
        self.expire()
        self.count += 1
        answer = self.locks.declare(
            agent, claims, self.now, ttl_s, "", LeaseId(f"{self.count:08x}")
        )
        paths = frozenset(path for path in UNIVERSE if any(covers(c, path) for c in claims))
        clash = any(paths & self.owned(other) for other in {A, B, C} - {agent})
        match answer:
            case Declared(taken, replaced):
                assert not clash
                assert agent in self.scopes
                for old in replaced:
                    assert self.held.pop(old.id)[1] <= paths
                self.held[taken.id] = (agent, paths, parse_rfc3339(taken.until))
            case Held(owner, _, resource):
                assert resource in claims
                assert owner in self.scopes
            case Barred():
                assert agent not in self.scopes

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        lease_id = data.draw(st.sampled_from(sorted(self.held)))
        agent = self.held.pop(lease_id)[0]
        self.locks.drop(self.locks.leases_of(agent, lease_id))

    @rule(agent=agents)
    def release(self, agent: AgentId) -> None:
        ended = {each.id for each in self.locks.release(agent)}
        assert ended == {lease for lease, (owner, _, _) in self.held.items() if owner == agent}
        self.scopes.pop(agent, None)
        self.held = {lease: each for lease, each in self.held.items() if lease not in ended}

    @rule(seconds=st.sampled_from([1, 9, 100]))
    def wait(self, seconds: int) -> None:
        self.now += seconds * NS

    @rule()
    def restart(self) -> None:
        """The scopes first, then the leases, as the daemon does."""
        self.expire()
        leases = list(self.locks.leases)
        self.locks = LockTable()
        for agent, scope in self.scopes.items():
            assert self.locks.reserve(agent, agent[0], scope) is None
        assert self.locks.restore(leases, self.now) == ([], [])

    @invariant()
    def every_path_has_one_writer_and_the_right_one(self) -> None:
        owned = {agent: self.owned(agent) for agent in (A, B, C)}
        for path in UNIVERSE:
            writers = [agent for agent in owned if may_write(self.locks, agent, path, self.now)]
            assert len(writers) <= 1
            assert writers == [agent for agent in owned if path in owned[agent]]

    @invariant()
    def denials_name_the_one_who_may(self) -> None:
        for path in UNIVERSE[::5]:
            for agent in self.scopes:
                decision = self.locks.decide(agent, "write", path, self.now)
                if isinstance(decision, Denied) and decision.owner is not None:
                    assert may_write(self.locks, decision.owner, path, self.now)

    @invariant()
    def expiry_is_the_earliest(self) -> None:
        times = [until for _, _, until in self.held.values()]
        assert self.locks.leases.next_expiry() == min(times, default=None)


TestOneWriter = OneWriter.TestCase
TestOneWriter.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


def test_a_directory_may_be_made_above_what_an_agent_holds() -> None:
    locks = table(a=["lib/a/**", "docs/*.md"], b=["src", "lib/b/**"])

    def made(agent: AgentId, path: str) -> bool:
        return isinstance(locks.decide(agent, "create", path, NOW, above=True), Granted)

    assert all(made(A, path) for path in ("lib", "lib/a", "docs"))
    assert not any(made(A, path) for path in ("src", "lib/b", "other", "docs/x.md/y", ".groove"))
    assert isinstance(locks.decide(A, "create", "lib", NOW), Denied)
    lease(locks, A, "new/place/file")
    assert made(A, "new/place")
    assert not made(B, "new/place")


@pytest.mark.parametrize("path", [".git", "a/.github", ".vscode"])
def test_a_shielded_directory_may_be_made_and_removed_empty(path: str) -> None:
    locks = table(a=["**"])
    assert isinstance(locks.decide(A, "create", path, NOW), Denied)
    assert isinstance(locks.decide(A, "create", path, NOW, above=True, empty=True), Granted)
    assert isinstance(locks.decide(A, "delete", path, NOW, empty=True), Granted)


@pytest.mark.parametrize("path", [".git/hooks", ".groove", ".claude", "a/.github/workflows"])
def test_a_protected_directory_may_not(path: str) -> None:
    locks = table(a=["**"])
    assert isinstance(locks.decide(A, "create", path, NOW, above=True, empty=True), Denied)
    assert isinstance(locks.decide(A, "delete", path, NOW, empty=True), Denied)
