"""Leases on disk, so that they outlive the daemon: one JSON array, replaced as a whole.

The file follows the log: what it says has its record on disk before. Else a power cut could take
the record of a lease that was given back, and leave the file without the lease.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from groove_trio.rules.leases import Leases
from groove_trio.shell.commit import GroupCommit
from groove_trio.shell.files import clear_torn, open_private, write_atomic
from groove_trio.words.errors import UnsafeState, shown
from groove_trio.words.leases import Lease


class LeaseFile:
    """Saves leases for everyone who waits; see `GroupCommit` for who may call what.

    Args:
        path: The file.
        leases: What is saved.
        recorded: Waits until all that was recorded so far is on disk; may raise `OSError`.
    """

    def __init__(
        self, path: Path, leases: Leases, recorded: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._path = path
        self._leases = leases
        self._version = 0
        self._commit = GroupCommit(self._prepare, 0.0, recorded)

    def changed(self) -> None:
        """Tells that the leases are others now; does not wait."""
        self._version += 1
        self._commit.changed(self._version)

    async def saved(self) -> None:
        """Waits until the leases as they are now, or later ones, are on disk.

        Raises:
            OSError: They could not be saved.
        """
        await self._commit.reached(self._version)

    async def run(self) -> None:
        """Saves whenever there is something to save, until cancelled."""
        await self._commit.run()

    def load(self) -> list[Lease]:
        """Reads what an earlier run saved; blocks for the disk.

        Raises:
            UnsafeState: The file has the wrong owner, mode, type or content.
            OSError: It can't be read.
        """
        clear_torn(self._path)
        try:
            descriptor = open_private(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return []
        with os.fdopen(descriptor, "rb") as file:
            data = file.read()
        try:
            return msgspec.json.decode(data, type=list[Lease])
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise UnsafeState(
                f"{shown(str(self._path))} is damaged: {shown(str(error))}. Remove it; "
                "the leases it held are lost.",
                path=str(self._path),
                reason=str(error),
            ) from error

    def _prepare(self) -> Callable[[], None]:
        data = msgspec.json.encode(list(self._leases))
        return lambda: write_atomic(self._path, data)
