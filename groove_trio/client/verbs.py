"""The typed client: one method a route, the words of the schemas in and out."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlencode

import msgspec

from groove_trio.client.faults import decode_answer, error_from
from groove_trio.client.find import Address, address_of, find_project, parse_url
from groove_trio.client.link import Link
from groove_trio.words.agents import AgentPatch, AgentSpec, AgentView, InstructRequest, StopRequest
from groove_trio.words.audit import AuditPage, Verification
from groove_trio.words.base import MAX_NAME, MAX_PAGE, Word
from groove_trio.words.credentials import CredentialRequest, CredentialView, checked_provider
from groove_trio.words.daemon import Health, ProviderView, Status
from groove_trio.words.errors import BadRequest, UnknownAgent, shown
from groove_trio.words.knocks import Decision, KnockAnswer, KnockRequest, Operation
from groove_trio.words.leases import (
    DEFAULT_LEASE_S,
    CompleteRequest,
    DeclareRequest,
    Explanation,
    Lease,
    LocksView,
)
from groove_trio.words.output import OutputPage
from groove_trio.words.secret import Secret

if TYPE_CHECKING:
    from groove_trio.client.feed import Feed
    from groove_trio.client.follow import Lines

T = TypeVar("T")


@asynccontextmanager
async def connect_groove(
    url: str | None = None, project: str | os.PathLike[str] | None = None
) -> AsyncGenerator[Client, None]:
    """Connects to a running daemon; works under trio and under asyncio.

    ``` python
    async with connect_groove() as groove:
        view = await groove.spawn(AgentSpec(role="tester", argv=["pytest"]))
    ```

    Args:
        url: Where it listens, such as ``http://127.0.0.1:31415``.
        project: The project it was started for, exactly. With neither, the project is looked for
            from the current directory upwards.

    Raises:
        Unreachable: No daemon runs there; the message says what to do.
    """
    locate = _locator(url, project)
    link = Link(locate)
    try:
        await link.open()
        yield Client(link, locate)
    finally:
        await link.aclose()


class Client:
    """A running daemon, from outside; got from `connect_groove`.

    Methods may be called from several tasks; they take turns on one connection, so a `stop` that
    waits for an agent's end delays the others. Every method raises the `GrooveError` that the
    daemon refused with, `Unreachable` where the connection is lost, and `RemoteError` where the
    answer makes no sense to this version. An agent goes by its id or its name.
    """

    def __init__(self, link: Link, locate: Callable[[], Address]) -> None:
        self._link = link
        self._locate = locate

    @property
    def url(self) -> str:
        """Where the daemon listens."""
        return self._locate().url

    # Agents

    async def spawn(self, spec: AgentSpec) -> AgentView:
        """Starts an agent; returns when its program runs.

        Raises:
            InvalidScope: A pattern breaks the language.
            ScopeOverlap: Another agent's scope shares a path; ``fields["witness"]`` is one.
            UnknownProvider, OutsideProject, NameTaken, ContainmentUnavailable: As they say.
            SpawnFailed, OutOfResources: The program did not start; nothing is held for it.
        """
        return await self._call("POST", "/api/agents", AgentView, spec)

    async def agents(self) -> list[AgentView]:
        """All known agents, oldest first."""
        return await self._call("GET", "/api/agents", list[AgentView])

    async def agent(self, key: str) -> AgentView:
        """One agent.

        Raises:
            UnknownAgent: There is none.
        """
        return await self._call("GET", _agent(key), AgentView)

    async def stop(self, key: str, grace_s: float | None = None) -> AgentView:
        """Stops an agent; returns when no process of its tree is left.

        Args:
            key: Its id or name.
            grace_s: Seconds between SIGTERM and SIGKILL; None for the agent's own.
        """
        return await self._call(
            "POST", _agent(key, "/stop"), AgentView, StopRequest(grace_s=grace_s)
        )

    async def restart(self, key: str) -> AgentView:
        """Stops an agent where needed and starts it anew, its restart count at zero."""
        return await self._call("POST", _agent(key, "/restart"), AgentView)

    async def resume(self, key: str) -> AgentView:
        """Starts an agent that was running when an earlier daemon died."""
        return await self._call("POST", _agent(key, "/resume"), AgentView)

    async def instruct(self, key: str, text: str) -> AgentView:
        """Hands a follow-up to a running, interactive agent."""
        return await self._call(
            "POST", _agent(key, "/instruct"), AgentView, InstructRequest(text=text)
        )

    async def patch(self, key: str, patch: AgentPatch) -> AgentView:
        """Changes an agent's name, restart policy or grace."""
        return await self._call("PATCH", _agent(key), AgentView, patch)

    async def remove(self, key: str) -> AgentView:
        """Forgets an agent that does not run and frees what it holds."""
        return await self._call("DELETE", _agent(key), AgentView)

    async def output(self, key: str, after: int = 0, limit: int = 100) -> OutputPage:
        """Lines an agent wrote, after a sequence number; a negative one counts from the end."""
        query = _query(after=after, limit=limit)
        return await self._call("GET", _agent(key, "/output") + query, OutputPage)

    def follow_output(self, key: str, after: int = 0) -> Lines:
        """Lines an agent wrote and goes on writing, each once and in order; an async iterator.

        ``` python
        async for line in groove.follow_output("tester"):
            print(line.text)
        ```

        Ends when the agent has ended for good; a restart that is still to come is waited for.
        Hold it in ``async with`` to leave before that.

        Args:
            key: Its id or name.
            after: The number of the line seen last; a negative one counts from the end.
        """
        from groove_trio.client.follow import Lines  # noqa: PLC0415 - wsproto takes 50 ms

        return Lines(self, key, after)

    # Knocks and leases

    async def knock(self, key: str, operation: Operation, path: str, *, tool: str = "") -> Decision:
        """Asks whether an agent may do an operation on a path; a denial is a value."""
        request = KnockRequest(agent=key, path=path, operation=operation, tool=tool)
        answer = await self._call("POST", "/api/knock", KnockAnswer, request)
        return answer.decisions[0]

    async def declare(
        self, key: str, paths: Sequence[str], ttl_s: float = DEFAULT_LEASE_S, *, reason: str = ""
    ) -> Lease:
        """Takes a lease for an agent on paths that no scope owns.

        Raises:
            Locked: Another agent owns or leases one of them; its fields say who, what, how long.
        """
        request = DeclareRequest(agent=key, paths=list(paths), ttl_s=ttl_s, reason=reason)
        return await self._call("POST", "/api/coordination/declare", Lease, request)

    async def complete(self, key: str, lease: str | None = None) -> list[Lease]:
        """Gives back one lease of an agent, or all of them.

        Raises:
            UnknownLease: The agent holds no such lease.
        """
        request = CompleteRequest(agent=key, lease=lease)
        return await self._call("POST", "/api/coordination/complete", list[Lease], request)

    async def coordination(self) -> list[Lease]:
        """The leases held now."""
        return await self._call("GET", "/api/coordination", list[Lease])

    async def explain(self, path: str) -> Explanation:
        """Says who may write a path, and by which rule."""
        return await self._call("GET", "/api/explain" + _query(path=path), Explanation)

    async def locks(self) -> LocksView:
        """Who holds what now."""
        return await self._call("GET", "/api/locks", LocksView)

    # Stored keys

    async def credentials(self) -> list[CredentialView]:
        """The stored keys, by provider: names and dates, never a value.

        Raises:
            SealBroken, VaultUnavailable: They can't be told.
        """
        return await self._call("GET", "/api/credentials", list[CredentialView])

    async def set_credential(
        self, provider: str, value: Secret, *, variable: str | None = None
    ) -> CredentialView:
        """Stores a provider's key; one that was stored for it is gone then.

        Args:
            provider: Whose key it is.
            value: The key.
            variable: The environment variable that it is handed over in; None for the first that
                the provider takes one in.

        Raises:
            BadRequest: It can't be a key, or the provider takes none, or not in this variable.
            MachineChanged: Others are stored that belong to another machine.
            SealBroken, VaultUnavailable: Nothing can be stored as it is.
        """
        request = CredentialRequest.checked(value, variable)
        target = f"/api/credentials/{checked_provider(provider)}"
        return await self._call("PUT", target, CredentialView, request)

    async def remove_credential(self, provider: str) -> CredentialView:
        """Forgets a provider's key.

        Raises:
            UnknownCredential: None is stored.
            SealBroken, VaultUnavailable: Nothing can be removed as it is.
        """
        target = f"/api/credentials/{checked_provider(provider)}"
        return await self._call("DELETE", target, CredentialView)

    # The daemon

    async def health(self) -> Health:
        """Whether it answers."""
        return await self._call("GET", "/api/health", Health)

    async def status(self) -> Status:
        """The daemon told."""
        return await self._call("GET", "/api/status", Status)

    async def providers(self) -> list[ProviderView]:
        """The providers that can be spawned."""
        return await self._call("GET", "/api/providers", list[ProviderView])

    async def audit(
        self,
        after: int = 0,
        limit: int = MAX_PAGE,
        *,
        agent: str = "",
        action: str = "",
        actor: str = "",
        since: str = "",
        until: str = "",
    ) -> AuditPage:
        """Records of the audit log after a number; a negative one counts from the end.

        `agent` is an id; `action` an action or a family (``knock``); `actor` an actor
        (``agent:3fa9c21e``) or a kind (``agent``); `since` and `until` are times of RFC 3339, the
        second the first that does not match.
        """
        query = _query(
            after=after,
            limit=limit,
            agent=agent,
            action=action,
            actor=actor,
            since=since,
            until=until,
        )
        return await self._call("GET", "/api/audit" + query, AuditPage)

    async def verify_audit(self) -> Verification:
        """Has the daemon read its whole audit log again and check it."""
        return await self._call("GET", "/api/audit/verify", Verification)

    def events(self, after: int | None = None, *, tries: int = 8) -> Feed:
        """Subscribes to events over a connection of its own: an async context manager to iterate.

        ``` python
        async with groove.events() as events:
            async for envelope in events:
                print(envelope.seq, envelope.event)
        ```

        A dropped connection is opened again and goes on after the last event seen.

        Args:
            after: The number of the event seen last; None begins with a `Snapshot` of now.
            tries: How often a dropped connection is tried again before `Unreachable`.
        """
        from groove_trio.client.feed import Feed  # noqa: PLC0415 - wsproto takes 50 ms to import

        return Feed(self._locate, after, tries)

    async def _call(self, method: str, target: str, schema: type[T], body: Word | None = None) -> T:
        data = b"{}" if body is None and method != "GET" else b""
        if body is not None:
            data = _encode(body)
        response = await self._link.call(method, target, data)
        if 200 <= response.status < 300:  # noqa: PLR2004 - RFC 9110, section 15.3
            return decode_answer(response.body, schema)
        raise error_from(response.status, response.body)


def _locator(url: str | None, project: str | os.PathLike[str] | None) -> Callable[[], Address]:
    if url is not None:
        address = parse_url(url)
        return lambda: address
    return partial(address_of, find_project() if project is None else Path(project).absolute())


def _encode(body: Word) -> bytes:
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        raise BadRequest("the request holds text that is not Unicode (a lone surrogate)") from None


def _agent(key: str, verb: str = "") -> str:
    """The path of an agent's route; ids and names are plain, so nothing else may get into it."""
    if not key or not key.isascii() or not key.replace("-", "").replace("_", "").isalnum():
        raise UnknownAgent(f"{shown(key)} is no agent's id or name", agent=key[:MAX_NAME])
    return f"/api/agents/{key}{verb}"


def _query(**fields: str | int) -> str:
    present = {name: value for name, value in fields.items() if value != ""}
    try:
        return "?" + urlencode(present, errors="strict")
    except UnicodeEncodeError:
        raise BadRequest("the request holds text that is not Unicode (a lone surrogate)") from None
