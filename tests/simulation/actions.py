"""The random program: owners, agents and subscribers, all asking at once, then a crash."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio
from house import House, running
from ledger import CLAIMED, COVERED, PATHS, Ledger
from msgspec.structs import replace
from world import Census, Kernel, Tree, World

from groove_trio.shell.audit import AuditLog
from groove_trio.shell.hub import Hub
from groove_trio.words.actors import OWNER, agent_actor
from groove_trio.words.agents import AgentPatch, AgentSpec, AgentView, Restart
from groove_trio.words.base import AgentId
from groove_trio.words.errors import GrooveError, SpawnFailed
from groove_trio.words.events import AnyEvent, Gap, Snapshot
from groove_trio.words.knocks import Granted, Knock

LIVES = 3  # daemons for a seed, one after the other
CALLERS = 4
ASKED = 5  # by each caller of each daemon
SEGMENT_BYTES = 6_000  # some dozen records
HISTORY = 24  # events, so that whoever is slow misses some
SETTLE_S = 30.0  # longer than any wait of the daemon's before it tries again
CALLER_S = 120.0  # the disk is well again long before

OPERATIONS = ("write", "write", "create", "delete", "metadata", "read")


class WatchedHub(Hub):
    """A hub with a ledger that reads along."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(clock=ledger.world.now, max_events=HISTORY)
        self._ledger = ledger

    def publish(self, event: AnyEvent) -> None:
        super().publish(event)
        self._ledger.see(event)


class SimulatedHouse(House):
    """A daemon in the world."""

    def __init__(self, ledger: Ledger, project: Path, audit: AuditLog) -> None:
        world = ledger.world
        super().__init__(
            project,
            audit,
            hub=WatchedHub(ledger),
            census=Census(world.kernel),
            clock=world.now,
            draw=world.chance.random,
        )
        self.tree = type("TreeOfTheWorld", (Tree,), {"kernel": world.kernel})

    def holders_by_id(self) -> set[str]:
        return {holding.agent for holding in self.broker.view().holdings}


def play(seed: int, directory: Path) -> World:
    """Plays one seed; raises `Violation` when an invariant broke."""
    world = World(seed, directory)
    with world.installed():
        for path in ("project/src/in", "project/docs", "config"):
            (world.root / path).mkdir(parents=True, mode=0o700)
        (world.project / ".groove").mkdir(mode=0o700)
        world.disk.settle()
        ledger = Ledger(world)
        for life in range(LIVES):
            _live(world, ledger, last=life == LIVES - 1)
            if world.violation is not None:
                break
    world.check()
    return world


def _live(world: World, ledger: Ledger, *, last: bool) -> None:
    chance = world.chance
    world.crash_at = world.crash_on_answer = fuse = None
    dies = "" if last else chance.choice(("between", "call", "answer", "answer", ""))
    if dies == "between":
        world.crash_at = world.steps + int(chance.random() ** 2 * 1500)
    elif dies == "call":
        fuse = 1 + int(chance.random() ** 2 * 180)
    elif dies == "answer":
        world.crash_on_answer = chance.randint(1, 10)
    world.disk.revive()
    world.disk.fuse = fuse
    world.note("a daemon begins")
    world.run(Daemon(world, ledger).run)
    died = world.disk.dead
    power = died and (world.crash_on_answer == 0 or chance.random() < 0.5)
    world.note(f"it {'died' if died else 'ended'}{', and the power with it' if power else ''}")
    world.kernel.orphan(power=power)
    if power:
        world.disk.cut_power()
    world.disk.revive()
    if world.violation is None:
        ledger.check_log(clean=not died)


class Daemon:
    """One daemon, and all who talk to it."""

    def __init__(self, world: World, ledger: Ledger) -> None:
        self.world = world
        self.ledger = ledger
        self.chance = world.chance
        self.kernel: Kernel = world.kernel
        self.house: SimulatedHouse
        self.habits: dict[int, tuple[Any, str]] = {}

    async def run(self) -> None:
        async with trio.open_nursery() as self.outside:
            opened = running(
                self.world.project,
                self._make,
                clock=self.world.now,
                config_dir=self.world.config,
                segment_bytes=SEGMENT_BYTES,
            )
            async with opened as house:
                await self._inside(house)
                for tree in self.kernel.trees:
                    tree.stuck = 0
            house.hub.close()
            self.outside.cancel_scope.deadline = trio.current_time() + SETTLE_S
        if left := self.kernel.alive() - {
            view.id for view in house.supervisor.views() if view.state == "interrupted"
        }:
            self.world.fail(f"something of {sorted(left)} lives, and the daemon has ended")

    def _make(self, project: Path, audit: AuditLog) -> SimulatedHouse:
        self.house = house = SimulatedHouse(self.ledger, project, audit)
        house.prepare = self._born
        self.ledger.follow(house)
        return house

    async def _inside(self, house: House) -> None:
        self.ledger.check_begun()
        self.outside.start_soon(self._listen, 0.0)
        self.outside.start_soon(self._listen, 3.0)
        with trio.move_on_after(CALLER_S) as patience:
            async with trio.open_nursery() as callers:
                callers.start_soon(self._sicken)
                for _ in range(CALLERS):
                    callers.start_soon(self._ask_on)
        if patience.cancelled_caught:
            self.world.fail("somebody was never answered")
        self.world.disk.mood, self.world.disk.slow_s = "well", 0.0
        for tree in self.kernel.trees:
            tree.stuck = 0
        await trio.sleep(SETTLE_S)
        self._check_settled(house)

    def _check_settled(self, house: House) -> None:
        """With a disk that is well again, all is told, recorded and given back."""
        if not house.audit.ok:
            self.world.fail("the log does not recover")
        states = {view.id: view.state for view in house.supervisor.views()}
        over = {
            agent
            for agent, state in states.items()
            if state in {"completed", "failed", "parked", "stopped"}
        }
        holders = house.holders_by_id()  # type: ignore[attr-defined]
        if held := holders & over:
            self.world.fail(f"{sorted(held)} are over, and hold their scopes")
        if nobody := holders - set(states):
            self.world.fail(f"{sorted(nobody)} hold scopes, and are not known")

    # The disk's moods

    async def _sicken(self) -> None:
        disk, chance = self.world.disk, self.chance
        for _ in range(chance.randint(0, 3)):
            await trio.sleep(chance.random() * 4)
            disk.mood = chance.choice(("well", "full", "failing"))
            disk.slow_s = chance.choice((0.0, 0.5, 6.0))
            self.world.note(f"the disk is {disk.mood}, {disk.slow_s} s")
            await trio.sleep(chance.random() * 5)
            disk.mood, disk.slow_s = "well", chance.choice((0.0, 0.05))
            self.world.note("the disk is well")

    # Programs

    def _born(self, tree: Any) -> None:
        self.kernel.trees.append(tree)
        tree.deaf = self.chance.random() < 0.3
        tree.stuck = self.chance.choice((0, 0, 0, 0, 2))
        self.outside.start_soon(self._program, tree)

    async def _program(self, tree: Tree) -> None:
        """What an agent does: talks, writes, and ends, perhaps before its children."""
        chance = self.chance
        for _ in range(chance.randint(0, 9)):
            with trio.move_on_after(chance.random() ** 2 * 2):
                await tree.gone.wait()
            if tree.gone.is_set():
                return
            if chance.random() < 0.4:
                self._say(tree)
            else:
                self._write(tree)
        if chance.random() < 0.6 and not tree.ended.is_set():
            tree.exit(chance.choice((0, 0, 1, 3)), all_of_it=chance.random() < 0.6)

    def _say(self, tree: Tree) -> None:
        try:
            tree.say(b"a line\n" * self.chance.randint(1, 3))
        except (trio.WouldBlock, trio.ClosedResourceError):
            self.world.note("the pipe is full")

    def _write(self, tree: Tree) -> None:
        """Opens files through the gate, as the gate's task does: some of them many times."""
        house, operation = self.house, self.chance.choice(OPERATIONS)
        held = [path for path in PATHS if tree.agent in self.ledger.owners(path)]
        path = self.chance.choice(held if held and self.chance.random() < 0.7 else PATHS)
        if tree.pid in self.habits and self.chance.random() < 0.6:  # the same again
            operation, path = self.habits[tree.pid]
        self.habits[tree.pid] = operation, path
        for _ in range(self.chance.choice((1, 1, 4))):
            full = f"{house.project}/{path}"
            key = (tree.agent, operation, path, tree.pid)
            if house.broker.again(tree.agent, operation, full, "openat", tree.pid):
                self.world.note(f"again {key}")
                self.ledger.check_grant(tree.agent, operation, path)
            elif house.broker.at_leisure:
                knock = self._knock(tree.agent, operation, full, source="gate")
                decision, _ = house.broker.decide_now(replace(knock, call="openat", pid=tree.pid))
                if not isinstance(decision, Granted):
                    return
            else:
                return
            self.ledger.grants[key] += 1

    # Callers

    async def _ask_on(self) -> None:
        chance = self.chance
        for _ in range(ASKED):
            await trio.sleep(chance.choice((0.0, 0.01, chance.random() * 2)))
            verb = chance.choices(*_VERBS)[0]
            self.world.note(f"ask {verb}")
            work = partial(self._ask, getattr(self, f"_{verb}"))
            if chance.random() < 0.3:
                await self.world.cut_short(work, chance.randint(0, 12))
            else:
                await work()

    async def _ask(self, verb: Callable[[], Awaitable[None]]) -> None:
        try:
            await verb()
        except GrooveError as error:
            self.world.note(f"refused {type(error).__name__}")

    def _someone(self) -> str:
        views = self.house.supervisor.views()
        return self.chance.choice(views).id if views else "nobody"

    async def _spawn(self) -> None:
        chance = self.chance
        spec = AgentSpec(
            role="worker",
            argv=["prog"],
            scope=chance.sample(sorted(COVERED), chance.randint(0, 2)),
            restart=Restart(
                mode=chance.choice(("never", "on-failure", "always")), max_restarts=2, first_s=0.5
            ),
            grace_s=chance.choice((0, 1, 4)),
            interactive=chance.random() < 0.5,
        )
        if chance.random() < 0.1:
            self.house.refuse.append(SpawnFailed("no such program", errno="ENOENT", what="program"))
        view = await self.house.supervisor.spawn(spec, OWNER)
        if not self.world.disk.dead:
            self.ledger.known.add(view.id)
        self.ledger.answered("agent.spawn", view.id)

    async def _stop(self) -> None:
        agent = self._someone()
        before = self.house.supervisor.view(agent).state
        view = await self.house.supervisor.stop(agent, OWNER, self.chance.choice((None, 0, 2)))
        if view.state == "stopped" and agent in self.kernel.alive():
            self.world.fail(f"{agent} is stopped, and something of it lives")
        if view.state == "stopped" != before:
            self.ledger.answered_once("agent.stop", agent)

    async def _restart(self) -> None:
        self._started(await self.house.supervisor.restart(self._someone(), OWNER))

    async def _resume(self) -> None:
        views = [each.id for each in self.house.supervisor.views() if each.state == "interrupted"]
        agent = self.chance.choice(views) if views else "nobody"
        self._started(await self.house.supervisor.resume(agent, OWNER))

    def _started(self, view: AgentView) -> None:
        self.ledger.answered_once("agent.started", view.id)

    async def _remove(self) -> None:
        agent = self._someone()
        await self.house.supervisor.remove(agent, OWNER)
        self.ledger.answered("agent.remove", agent)

    async def _patch(self) -> None:
        agent = self._someone()
        patch = AgentPatch(grace_s=self.chance.choice((0, 3)))
        if self.chance.random() < 0.5:
            patch = AgentPatch(name=f"n{self.chance.randint(0, 4)}")
        await self.house.supervisor.patch(agent, patch, OWNER)
        self.ledger.answered("agent.patch", agent)

    async def _instruct(self) -> None:
        agent = self._someone()
        await self.house.supervisor.instruct(agent, "go on", OWNER)
        self.ledger.answered("agent.instruct", agent)

    async def _declare(self) -> None:
        agent = AgentId(self._someone())
        paths = self.chance.sample(sorted(CLAIMED), self.chance.randint(1, 2))
        ttl_s = self.chance.choice((1, 3, 600, 600))
        lease = await self.house.broker.declare(agent, paths, ttl_s, "why", agent_actor(agent))
        if not self.world.disk.dead:
            self.ledger.leases[lease.id] = lease
        self.ledger.answered("lease.declare", lease.id)

    async def _complete(self) -> None:
        for lease in await self.house.broker.complete(AgentId(self._someone())):
            self.ledger.answered("lease.complete", lease.id)

    async def _knock_once(self) -> None:
        knock = self._knock(
            AgentId(self._someone()), self.chance.choice(OPERATIONS), self.chance.choice(PATHS)
        )
        ask = self.house.broker.knock
        if self.chance.random() < 0.3:
            ask = self.house.broker.knock_nowait
        self.ledger.decided(knock, await ask(knock))

    async def _crowd(self) -> None:
        """More callers than the queue has room for."""
        async with trio.open_nursery() as nursery:
            for _ in range(self.chance.choice((5, 5, 80))):
                nursery.start_soon(self._knock_once)

    async def _read(self) -> None:
        await self.house.audit.read(self.chance.randint(0, 50), 20)
        await self.house.supervisor.output(self._someone(), 0, 10)

    def _knock(self, agent: AgentId, operation: Any, path: str, source: Any = "api") -> Knock:
        actor = agent_actor(agent)
        return Knock(agent=agent, operation=operation, path=path, actor=actor, source=source)

    # Subscribers

    async def _listen(self, slow_s: float) -> None:
        """Follows the events, and counts: the next number, or a gap that says exactly which."""
        hub = self.house.hub
        last = hub.seq
        with hub.subscribe(last, _nothing) as events:
            async for told in events:
                event = told.event
                if isinstance(event, Gap):
                    whole = (last + 1, told.seq - last)
                    if (event.first, event.missed) != whole or event.last != told.seq:
                        self.world.fail(f"a gap of {event}, after {last}, before {told.seq + 1}")
                elif told.seq != last + 1:
                    self.world.fail(f"event {told.seq} came after {last}")
                last = told.seq
                await trio.sleep(self.chance.random() * slow_s)
        if last != hub.seq:
            self.world.fail(f"the events ended with {last} of {hub.seq}")


_VERBS = (
    ("spawn", "stop", "restart", "resume", "remove", "patch", "instruct", "declare", "complete",
     "knock_once", "crowd", "read"),
    (10, 5, 4, 3, 4, 2, 2, 8, 3, 10, 2, 1),
)  # fmt: skip


def _nothing() -> Snapshot:
    raise AssertionError("nobody asked for a snapshot")
