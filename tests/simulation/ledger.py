"""What was answered, and whether the daemon stands by it: the invariants.

Nothing here is taken from the product's own decisions: which patterns cover which paths is
written down by hand for the few that are used, and the log is read line by line.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from house import House
from world import World

from groove_trio.rules.lifecycle import FINAL, LIVE, TRANSITIONS
from groove_trio.shell.heads import read_checkpoint, verify_log
from groove_trio.shell.segments import list_segments
from groove_trio.words.audit import AuditEntry
from groove_trio.words.clock import parse_rfc3339
from groove_trio.words.events import AgentStateChanged, AnyEvent, KnockDecided
from groove_trio.words.knocks import Decision, Denied, Granted, Knock
from groove_trio.words.leases import Lease

COVERED: dict[str, frozenset[str]] = {
    "src/**": frozenset({"src/a", "src/b", "src/in/c"}),
    "src/*": frozenset({"src/a", "src/b"}),
    "src/in/**": frozenset({"src/in/c"}),
    "src/{a,b}": frozenset({"src/a", "src/b"}),
    "**/c": frozenset({"src/in/c", "docs/c"}),
    "docs/**": frozenset({"docs/c", "docs/d"}),
    "docs/d": frozenset({"docs/d"}),
    "?op": frozenset({"top"}),
    "top": frozenset({"top"}),
}
"""Each pattern that a scope is made of, and which of all the paths it matches."""

CLAIMED: dict[str, frozenset[str]] = {
    "src/": COVERED["src/**"],
    "src/in/": COVERED["src/in/**"],
    "docs/": COVERED["docs/**"],
    **{
        path: frozenset({path})
        for path in ("src/a", "src/b", "src/in/c", "docs/c", "docs/d", "top")
    },
}
"""The same for what can be leased."""

TORN = ("no newline at the end", "a torn line without its repair", "there is no segment")
"""What the verifier says of a log whose daemon died while it wrote, or before it wrote at all."""

UNRECORDED = {"audit log"}
"""The rule of a denial that is not on record, and says so."""

PATHS = sorted(path for path in CLAIMED if not path.endswith("/"))
MOVES = {(before, after) for (before, _), after in TRANSITIONS.items()}


class Ledger:
    """The memory of whoever asked the daemons of one world.

    Attributes:
        answers: What was answered, by what its record must say, and how often.
        known: Agents whose spawn was answered.
        leases: Those answered.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.answers: Counter[tuple[Any, ...]] = Counter()
        self.durable: dict[int, tuple[Any, ...]] = {}
        self.known: set[str] = set()
        self.leases: dict[str, Lease] = {}
        self.grants: Counter[tuple[Any, ...]] = Counter()
        self.first = 1  # number of the first record of this daemon
        self.begun = False
        self._version = -1
        self._alive = (-1, 0)
        self._over: set[str] = set()
        self._house: House | None = None

    # What was answered

    def answered(self, *facts: Any) -> None:
        """An answer that its record was on disk for; one given by the dying is none."""
        if not self.world.disk.dead:
            self.world.note(f"answered {' '.join(map(str, facts))}")
            self.answers[facts] += 1
            self.world.answered()

    def answered_once(self, *facts: Any) -> None:
        """As `answered`, where those who asked at one time share a record."""
        if facts not in self.answers:
            self.answered(*facts)

    def decided(self, knock: Knock, decision: Decision) -> None:
        """A knock that was answered."""
        if isinstance(decision, Denied) and decision.rule not in UNRECORDED:
            self.world.note(f"denied by {decision.rule}: {decision.reason}")
            self.answered("knock.denied", knock.agent, knock.operation, decision.path)

    # The daemon that runs

    def follow(self, house: House) -> None:
        """Watches one daemon from now on."""
        self._house, self._version, self.begun = house, -1, False
        self.first = house.audit.seq + 1
        self.grants.clear()
        self.world.look = self.look
        self._watch_log(house)

    def _watch_log(self, house: House) -> None:
        audit, written = house.audit, dict[int, tuple[Any, ...]]()
        append, durable = audit.append, audit.durable

        def noted_append(entries: Any) -> int:
            last = append(entries)
            for seq, entry in zip(range(last, 0, -1), reversed(entries), strict=False):
                written[seq] = _facts(entry)
            self.world.note(f"append {last} {' '.join(entry.action for entry in entries)}")
            return last

        async def noted_durable(seq: int) -> None:
            await durable(seq)
            if not self.world.disk.dead and seq in written:
                self.durable[seq] = written[seq]

        audit.append = noted_append  # type: ignore[method-assign]
        audit.durable = noted_durable  # type: ignore[method-assign]

    def see(self, event: AnyEvent) -> None:
        """Looks at an event in the step in which it is published."""
        if self.world.disk.dead:
            return
        self.world.note(f"event {_summary(event)}")
        house = self._house
        assert house is not None
        if isinstance(event, KnockDecided) and isinstance(event.decision, Granted):
            if not event.again:  # what is told afterwards was checked when it was granted
                self.check_grant(event.id, event.operation, event.decision.path)
        elif isinstance(event, AgentStateChanged):
            self._check_move(house, event)

    def _check_move(self, house: House, event: AgentStateChanged) -> None:
        if (event.before, event.after) not in MOVES:
            self.world.fail(f"{event.id} moved from {event.before} to {event.after}")
        if event.after not in FINAL:
            return
        if event.id in self.world.kernel.alive():
            self.world.fail(f"something of {event.id} lives, and it is {event.after}")
        self._over.add(event.id)  # a start that overtakes it is told in the same step

    def check_grant(self, agent: str, operation: str, path: str) -> None:
        """A granted knock is inside what its agent holds in this very moment."""
        assert self._house is not None
        if operation != "read" and agent not in self.owners(path):
            self.world.fail(f"{agent} was granted {operation} on {path}, which it does not hold")

    def owners(self, path: str) -> set[str]:
        """Who may write a path in this moment."""
        assert self._house is not None
        view, now = self._house.broker.view(), self.world.now()
        owners = {
            holding.agent
            for holding in view.holdings
            if any(path in COVERED[pattern] for pattern in holding.scope)
        }
        return owners | {
            lease.agent
            for lease in view.leases
            if parse_rfc3339(lease.until) > now
            and any(path in CLAIMED[each] for each in lease.paths)
        }

    def look(self) -> None:
        """Between two steps: one owner for a path, and no process without its scope."""
        house = self._house
        if house is None:
            return
        version = house.broker._table.version  # noqa: SLF001 - spares looking at what is as it was
        alive = (version, len(self.world.kernel.trees))
        if self.begun and alive != self._alive:
            self._alive = alive
            homeless = self.world.kernel.alive() - house.holders_by_id()
            if homeless:
                self.world.fail(f"something of {sorted(homeless)} lives, and holds no scope")
        if self._over:
            self._check_over(house)
        if version == self._version:
            return
        self._version = version
        for path in PATHS:
            owners = self.owners(path)
            if len(owners) > 1:
                self.world.fail(f"{path} has the owners {sorted(owners)}")

    def _check_over(self, house: House) -> None:
        """Whoever hears of an end may take the scope."""
        states = {view.id: view.state for view in house.supervisor.views()}
        held = self._over & house.holders_by_id()
        self._over.clear()
        for agent in sorted(held):
            if states.get(agent) in FINAL and house.audit.ok and not house.supervisor.draining:
                self.world.fail(f"{agent} holds a scope, and it is told to be {states[agent]}")

    # After a daemon has begun

    def check_begun(self) -> None:
        """What a daemon before it answered still holds."""
        house = self._house
        assert house is not None
        self.begun = True
        found = verify_log(house.audit.directory, self.world.config)
        if not found.ok:
            self.world.fail(f"the log was taken up and does not verify: {found.problem}")
        views = {view.id: view for view in house.supervisor.views()}
        records = self.records()
        removed = {each["agent"] for each in records if each["action"] == "agent.remove"}
        for agent in sorted(self.known - removed - set(views)):
            self.world.fail(f"{agent} was spawned, and is not known any more")
        holders = house.holders_by_id()
        for view in views.values():
            if view.state == "interrupted" and view.id not in holders and house.audit.ok:
                self.world.fail(f"{view.id} is interrupted, and does not hold its scope")
            if view.state in LIVE:
                self.world.fail(f"{view.id} is {view.state}, and nobody stands behind it")
        self._check_leases(house, records, removed)

    def _check_leases(self, house: House, records: list[dict[str, Any]], removed: set[str]) -> None:
        ended: set[str] = set()
        for record in records:
            detail = record["detail"]
            if record["action"] in {"lease.complete", "lease.expire"}:
                ended.add(detail["lease"])
            elif record["action"] == "agent.release":
                ended.update(detail["leases"])
            elif record["action"] == "lease.declare":
                ended.update(detail["replaces"])
        held = {lease.id for lease in house.broker.view().leases}
        over = {view.id for view in house.supervisor.views() if view.state in FINAL}
        for lease in list(self.leases.values()):
            gone = lease.id in ended or lease.agent in over | removed
            if gone or parse_rfc3339(lease.until) <= self.world.now():
                del self.leases[lease.id]
            elif lease.id not in held:
                self.world.fail(f"lease {lease.id} of {lease.agent} was answered, and is lost")

    # After a daemon has ended

    def check_log(self, *, clean: bool) -> None:
        """The log verifies, and holds what was answered."""
        self._house, self.world.look = None, lambda: None
        directory = self.world.project / ".groove/audit"
        if not directory.exists():
            if self.answers:
                self.world.fail("the log is gone")
            return
        try:
            found = verify_log(directory, self.world.config)
        except Exception as fault:  # noqa: BLE001 - takes any bytes
            self.world.fail(f"verifying broke: {fault!r}")
            return
        self.world.note(f"log ok={found.ok} records={found.records} {found.problem or ''}")
        # Torn by a crash: the next daemon repairs that first, see `check_begun`.
        torn = not clean and any(each in str(found.problem) for each in TORN)
        if not found.ok and not torn:
            self.world.fail(f"the log does not verify: {found.bad_line} {found.problem}")
        records = self.records()
        self._check_answers(records)
        known = read_checkpoint(self.world.config, directory)
        if clean and (known is None or known.seq != records[-1]["seq"]):
            self.world.fail(f"the checkpoint knows {known}, and the log ends elsewhere")
        if clean:
            self._check_folds(records)

    def _check_answers(self, records: list[dict[str, Any]]) -> None:
        by_seq = {record["seq"]: _told(record) for record in records}
        for seq, facts in sorted(self.durable.items()):
            if by_seq.get(seq) != facts:
                self.world.fail(f"record {seq} was acknowledged: {facts}, not {by_seq.get(seq)}")
        there = Counter(key for record in records for key in _keys(record))
        for facts, count in self.answers.items():
            if there[facts] < count:
                self.world.fail(f"answered {count} times, recorded {there[facts]}: {facts}")

    def _check_folds(self, records: list[dict[str, Any]]) -> None:
        told: Counter[tuple[Any, ...]] = Counter()
        for record in records:
            if record["seq"] >= self.first and record["action"] == "knock.granted":
                detail = record["detail"]
                if detail["source"] == "gate":
                    key = (record["agent"], detail["operation"], detail["path"], detail["pid"])
                    told[key] += detail.get("again", 1)
        if told != self.grants:
            self.world.fail(f"granted and not told {self.grants - told}, more {told - self.grants}")

    def records(self) -> list[dict[str, Any]]:
        """The records of the log that count."""
        return read_log(self.world.project / ".groove/audit")


def read_log(directory: Path) -> list[dict[str, Any]]:
    """The records of a log, those left out that a repair says were refused."""
    records: list[dict[str, Any]] = []
    data = b"".join(path.read_bytes() for path in list_segments(directory))
    for line in data.split(b"\n"):
        try:
            record = json.loads(line)
        except ValueError:  # a torn piece
            continue
        if record["action"] == "audit.repair" and (void := record["detail"]["void"]):
            del records[-void:]
        records.append(record)
    return records


def _facts(entry: AuditEntry) -> tuple[Any, ...]:
    return (entry.action, entry.agent, str(entry.actor))


def _told(record: dict[str, Any]) -> tuple[Any, ...]:
    return (record["action"], record["agent"], record["actor"])


def _keys(record: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The answers that a record stands for."""
    action, agent, detail = record["action"], record["agent"], record["detail"]
    if action == "knock.denied":
        return [(action, agent, detail["operation"], detail["path"])]
    if action.startswith("lease.") and "lease" in detail:
        return [(action, detail["lease"])]
    return [(action, agent)]


def _summary(event: AnyEvent) -> str:
    kind = type(event).__name__
    if isinstance(event, AgentStateChanged):
        return f"{kind} {event.id} {event.before} -> {event.after}"
    if isinstance(event, KnockDecided):
        return f"{kind} {event.id} {event.operation} {event.decision.path} {event.decision.rule}"
    return f"{kind} {getattr(event, 'id', '')}"
