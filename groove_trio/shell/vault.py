"""The daemon's side of stored keys: puts them away, hands them over, and has it all on record.

A key is opened just before the program that needs it is started, and handed to that process in one
variable of its environment; the provider says in which it may. It stands in no spec, status, event
or record. Each change and each handing over is in the audit log before it happens; a change that
fails afterwards is taken back there.

Keys are worth nothing where every agent can read what opens them. So nothing is stored or handed
over while the configuration directory lies inside the project, which all agents may read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import trio

from groove_trio.providers.base import Keyed, Launch, Provider
from groove_trio.rules.chain import (
    CREDENTIAL_FOUND,
    CREDENTIAL_REMOVE,
    CREDENTIAL_SET,
    CREDENTIAL_USE,
    UNDO,
)
from groove_trio.rules.envelope import Sealed
from groove_trio.shell.audit import AuditLog
from groove_trio.shell.credentials import CredentialFile, check_variable, view
from groove_trio.words.actors import SYSTEM, Actor
from groove_trio.words.agents import AgentSpec
from groove_trio.words.audit import AuditEntry
from groove_trio.words.base import AgentId
from groove_trio.words.credentials import CredentialView
from groove_trio.words.errors import (
    AuditUnavailable,
    SealBroken,
    UnknownCredential,
    UnsafeState,
    VaultUnavailable,
    shown,
)
from groove_trio.words.secret import Secret

T = TypeVar("T")

_log = logging.getLogger("groove_trio")


class Vault:
    """The stored keys of the user who runs the daemon.

    Args:
        file: Where they are.
        project: The project root, absolute, symlinks resolved.
        audit: Where changes and uses are recorded.
        providers: Those known, by name.
    """

    def __init__(
        self,
        file: CredentialFile,
        project: Path,
        audit: AuditLog,
        providers: Mapping[str, Provider],
    ) -> None:
        self._file = file
        self._audit = audit
        self._providers = providers
        self._exposed = file.directory.resolve().is_relative_to(project)
        # One at a time: each run of scrypt takes 128 MiB.
        self._turn = trio.CapacityLimiter(1)

    async def begin(self) -> None:
        """Records which keys there are, so that one set or removed without a daemon shows.

        Raises:
            UnsafeState: The file has the wrong type, owner or mode.
            AuditUnavailable: The log can't be written.
        """
        try:
            keys = await trio.to_thread.run_sync(self._file.records, limiter=self._turn)
            detail: dict[str, object] = {"keys": {each.provider: each.at for each in keys}}
        except SealBroken as error:
            _log.warning("%s", error.detail)
            keys, detail = (), {"problem": error.fields["reason"]}
        if keys or "problem" in detail:
            await self._record(SYSTEM, CREDENTIAL_FOUND, detail)

    async def keys(self) -> list[CredentialView]:
        """The stored keys, by provider; never their values.

        Raises:
            SealBroken, VaultUnavailable: They can't be told.
        """
        return [view(each, self._providers) for each in await self._do(self._file.records)]

    async def store(
        self, provider: str, variable: str | None, secret: Secret, actor: Actor
    ) -> CredentialView:
        """Stores a provider's key; one that was stored for it is gone then.

        Raises:
            BadRequest: The provider takes no key, or not in this variable.
            MachineChanged, SealBroken, VaultUnavailable: Nothing can be stored as it is.
            AuditUnavailable: The log can't be written; nothing was done.
        """
        check_variable(self._providers.get(provider), variable)
        self._check_place()
        detail = {"provider": provider, "variable": variable}
        seq = await self._record(actor, CREDENTIAL_SET, detail)
        return await self._change(seq, lambda: self._file.store(provider, variable, secret))

    async def remove(self, provider: str, actor: Actor) -> CredentialView:
        """Forgets a provider's key.

        Raises:
            UnknownCredential: None is stored.
            SealBroken, VaultUnavailable: Nothing can be removed as it is.
            AuditUnavailable: The log can't be written; nothing was done.
        """
        if all(each.provider != provider for each in await self._do(self._file.records)):
            raise UnknownCredential(f"no key is stored for {shown(provider)}", provider=provider)
        seq = await self._record(actor, CREDENTIAL_REMOVE, {"provider": provider})
        return await self._change(seq, lambda: self._file.remove(provider))

    async def hand_over(
        self, agent: AgentId, spec: AgentSpec, provider: Provider, launch: Launch
    ) -> dict[str, str]:
        """The variables that an agent's program gets a key in: one, or none.

        None where the provider takes none, where none is stored, and where the spec or the
        provider sets the variable itself. The value is bare in what is returned: hand it to exec
        and keep it nowhere.

        Raises:
            BadRequest: The key is stored for a variable that the provider does not take one in.
            MachineChanged, SealBroken, VaultUnavailable: It is stored and can't be opened.
            AuditUnavailable: The log can't be written, so it is not handed over.
        """
        if not isinstance(provider, Keyed) or not provider.credentials:
            return {}
        keys = await self._do(self._file.records)
        stored = next((each for each in keys if each.provider == provider.name), None)
        if stored is None:
            return {}
        check_variable(provider, stored.variable)
        variable = stored.variable or provider.credentials[0]
        if variable in spec.env or variable in launch.env:
            return {}
        self._check_place()
        record, secret = await self._do(lambda: self._file.reveal(provider.name))
        detail = {"provider": provider.name, "variable": variable, "set": record.set}
        await self._record(SYSTEM, CREDENTIAL_USE, detail, agent)
        return {variable: secret.reveal()}

    def _check_place(self) -> None:
        if self._exposed:
            reason = "the configuration directory lies inside the project, where agents can read it"
            raise VaultUnavailable(f"{reason}; set XDG_CONFIG_HOME to another place", reason=reason)

    async def _record(
        self, actor: Actor, action: str, detail: Mapping[str, object], agent: AgentId | None = None
    ) -> int:
        return await self._audit.record(
            AuditEntry(actor=actor, action=action, agent=agent, detail=dict(detail))
        )

    async def _change(self, seq: int, change: Callable[[], Sealed]) -> CredentialView:
        """Makes a change that is on record as `seq`, or takes it back there."""
        try:
            return view(await self._do(change), self._providers)
        except BaseException:
            with suppress(AuditUnavailable):
                self._audit.append([AuditEntry(actor=SYSTEM, action=UNDO, detail={"of": seq})])
            raise

    async def _do(self, work: Callable[[], T]) -> T:
        """Runs what blocks; cancelled, it has not begun. What it meets is told without a path."""
        try:
            return await trio.to_thread.run_sync(work, limiter=self._turn)
        except UnsafeState as error:
            _log.warning("%s", error.detail)
            reason = str(error.fields.get("reason") or "they are not private")
        except OSError as error:
            _log.warning("stored keys: %s", error)
            reason = str(error.strerror)
        raise VaultUnavailable(f"the stored keys can't be used: {reason}", reason=reason)
