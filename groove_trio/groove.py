"""The composition: builds the parts, nests their nurseries, and owns the shutdown order.

The nesting is the shutdown order, read from the inside out: the doors close, every agent is
asked to stop and waited for, the feeds deliver their backlog, the broker's channel ends, the
audit log closes. A stop is a request; cancelling is the backstop. What crashes in one agent or
one connection stays there; a crash of the broker or the audit log ends everything, because no
agent may run unsupervised.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import trio

from groove_trio import __version__
from groove_trio.config import Config
from groove_trio.providers.known import known_providers
from groove_trio.shell.audit import AuditLog, open_audit
from groove_trio.shell.binds import binds_of, open_listeners, permitted
from groove_trio.shell.broker import Broker
from groove_trio.shell.census import Census
from groove_trio.shell.confining import Confining
from groove_trio.shell.credentials import CredentialFile
from groove_trio.shell.daemonfile import DaemonFile, describe_self
from groove_trio.shell.door import Door
from groove_trio.shell.faults import innermost
from groove_trio.shell.gates import Gates
from groove_trio.shell.hub import Hub
from groove_trio.shell.identity import Identity
from groove_trio.shell.judge import hidden_paths
from groove_trio.shell.listener import accept_connections
from groove_trio.shell.paths import resolve_root
from groove_trio.shell.refusals import Refusals
from groove_trio.shell.store import STATE_DIR
from groove_trio.shell.subreaper import subreaper
from groove_trio.shell.supervisor import Supervisor
from groove_trio.shell.vault import Vault
from groove_trio.verbs import Groove, Parts, url_of
from groove_trio.words.events import Draining

__all__ = ["Groove", "open_groove"]


@asynccontextmanager
async def open_groove(config: Config) -> AsyncGenerator[Groove]:
    """Opens a groove on a project: listens, supervises, and closes tidily when the block ends.

    Sets no signal handler, umask, working directory or logging. An error in the block ends it as
    tidily as its end would, and comes out as itself, not inside nested groups. Cancelling the
    block is the hard way: agents are killed at once.

    Args:
        config: Where and how.

    Yields:
        The groove, listening, with the agents of an earlier run as ``interrupted``.

    Raises:
        BindRefused: The host is not loopback; nothing was opened.
        PortTaken: No port is free.
        AlreadyRunning: A daemon runs for this project.
        AuditTampered: The audit log is not what its checkpoint knows.
        UnsafeState: A state file has the wrong owner, mode or type.
        OutsideProject: The project is not a directory.
    """
    with flattened():
        async with AsyncExitStack() as stack:
            held: list[BaseException] = []
            stack.callback(let_out, held)
            project = await trio.to_thread.run_sync(resolve_root, config.project)
            await permitted(config.host, config.port)
            # Before the port: who comes second is to hear of the first, not of its port.
            claim = await stack.enter_async_context(claimed(project))
            listeners = await open_listeners(config.host, config.port)
            for listener in listeners:
                stack.push_async_callback(trio.aclose_forcefully, listener)
            if config.adopt_orphans:
                stack.enter_context(subreaper())
            config_dir = config.config_dir and config.config_dir.absolute()
            audit = await stack.enter_async_context(
                open_audit(claim.directory / "audit", config_dir=config_dir)
            )
            parts = assemble(config, project, audit, url_of(*binds_of(listeners)[0]))
            await parts.vault.begin()
            groove = Groove(project, parts, binds_of(listeners))
            await start(stack, parts, groove.door, listeners, config.drain_s)
            info = describe_self(groove.url, groove.port, __version__, config.guard_pid)
            await trio.to_thread.run_sync(claim.publish, info)
            # Thrown into the nurseries it would cancel the connections before they were told.
            try:
                yield groove
            except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - let out at the end
                held.append(error)


def assemble(config: Config, project: Path, audit: AuditLog, url: str) -> Parts:
    """Builds the parts; nothing runs yet."""
    hub = Hub()
    config_dir = audit.config_dir
    census = Census(project=str(project), kill_strangers=config.kill_strangers)
    broker = Broker(project, audit, hub.publish, project / STATE_DIR / "leases.json")
    state = str(project / STATE_DIR)
    gates = Gates(broker, census, state)
    hidden = [*hidden_paths(), str(config_dir), str(config_dir.resolve())]
    confining = Confining(str(project), census, gates, state, hidden)
    providers = known_providers(config.providers)
    vault = Vault(CredentialFile(config_dir), project, audit, providers)
    supervisor = Supervisor(
        project=project,
        url=url,
        broker=broker,
        audit=audit,
        hub=hub,
        census=census,
        providers=config.providers,
        containment=confining.levels,
        missing=confining.missing,
        confined=confining.open,
        descriptor_limit=config.descriptor_limit,
        hand_over=vault.hand_over,
    )
    return Parts(
        audit, hub, census, broker, confining, supervisor, Identity(census), Refusals(audit), vault
    )


async def start(
    stack: AsyncExitStack,
    parts: Parts,
    door: Door,
    listeners: Sequence[trio.SocketListener],
    drain_s: float,
) -> None:
    """Starts the parts, each within the one before; unwinding the stack is the shutdown."""
    stack.callback(parts.identity.close)
    parts.identity.open()
    await parts.confining.probe()
    watch = await stack.enter_async_context(trio.open_nursery())
    await watch.start(parts.census.run)
    watch.start_soon(parts.refusals.run)
    stack.callback(watch.cancel_scope.cancel)
    core = await stack.enter_async_context(trio.open_nursery())
    await core.start(parts.broker.run)
    stack.callback(parts.broker.close)
    gates = await stack.enter_async_context(trio.open_nursery())
    await gates.start(parts.confining.gates.run)
    stack.callback(gates.cancel_scope.cancel)
    connections = await stack.enter_async_context(trio.open_nursery())

    def end_connections() -> None:
        connections.cancel_scope.deadline = trio.current_time() + drain_s
        parts.hub.close()
        door.drain()

    stack.callback(end_connections)
    agents = await stack.enter_async_context(trio.open_nursery())
    await agents.start(parts.supervisor.run)

    async def end_agents() -> None:
        parts.hub.publish(Draining())
        await parts.supervisor.drain()

    stack.push_async_callback(end_agents)
    doors = await stack.enter_async_context(trio.open_nursery())
    await doors.start(accept_connections, listeners, door, connections)
    stack.callback(doors.cancel_scope.cancel)


@asynccontextmanager
async def claimed(project: Path) -> AsyncGenerator[DaemonFile]:
    """Holds the project, so that no other daemon takes it."""
    claim = DaemonFile(project)
    await trio.to_thread.run_sync(claim.acquire)
    try:
        yield claim
    finally:
        claim.release()


def let_out(held: list[BaseException]) -> None:
    """Raises what was held back until everything was closed."""
    for error in held:
        raise error


@contextmanager
def flattened() -> Generator[None]:
    """Lets a lone error out of the groups that the nested nurseries wrapped it in."""
    try:
        yield
    except BaseExceptionGroup as group:
        lone = innermost(group)
        if lone is group:
            raise
        raise lone from lone.__cause__  # noqa: ASYNC123 - the groups around it say nothing
