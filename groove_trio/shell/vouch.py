"""The task that tells the head of an open log to its checkpoint, behind every sync.

Nobody waits for it: who needs a record durable waits for the sync of the log alone. It follows at
most `HEAD_LAG_S` behind, and only ever with what was synced, so the checkpoint is never ahead of
the disk. Where it can't be written, the log goes on, and says so in a record.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import trio

from groove_trio.shell.commit import GroupCommit
from groove_trio.shell.heads import write_checkpoint
from groove_trio.verify import Checkpoint
from groove_trio.words.errors import UnsafeState

HEAD_LAG_S = 1.0
"""How far the checkpoint may be behind the log: more syncs a second would be felt by others."""


class Vouch:
    """The checkpoint of one open log.

    Args:
        config_dir: The user's own directory.
        directory: The log.
        log: The log's id.

    Attributes:
        synced: Number and hash of the last record that is on disk; set by who syncs.
    """

    def __init__(self, config_dir: Path, directory: Path, log: str) -> None:
        self.synced: tuple[int, str] = (0, log)
        self._config_dir = config_dir
        self._directory = directory
        self._log = log
        self._told = 0

    def tell(self) -> None:
        """Writes what was synced into the checkpoint; blocks for the disk.

        Raises:
            UnsafeState: The directory of checkpoints has the wrong owner, mode or type.
            OSError: It could not be written; what it said before still stands.
        """
        seq, head = self.synced
        write_checkpoint(self._config_dir, self._directory, Checkpoint(self._log, seq, head))
        self._told = seq

    async def run(self, commit: GroupCommit, report: Callable[[str | None], None]) -> None:
        """Follows the commits until cancelled.

        Args:
            commit: Who syncs.
            report: Told why the checkpoint can't be written, and, by None, that it can again.
        """
        failed: str | None = None
        while True:
            await commit.beyond(self._told)
            error: str | None = None
            try:
                await trio.to_thread.run_sync(self.tell)
            except OSError as fault:
                error = errno.errorcode.get(fault.errno or 0, "an error")
            except UnsafeState as fault:
                error = fault.detail
            if error != failed:
                report(error)
                failed = error
            await trio.sleep(HEAD_LAG_S)
