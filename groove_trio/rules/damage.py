"""What stands at the end of a log and does not count: the account that a repair record gives.

A log is only ever appended to, so what a failed write left in the file stays there. Three
kinds of damage can stand behind the last record that counts, in this order:

- records that a failed sync may have lost: written, counted, but in doubt (``unsynced``);
- whole records of a write that failed further on: in the chain, but refused (``void``);
- a torn piece: the beginning of a record (``torn``, ``sha256``).

The next write that succeeds begins by ending the torn piece with `TORN_END`, then comes an
``audit.repair`` record that names all three; the verifier (see `rules.chain`) holds it to the
torn bytes. A repair may itself be cut, and is then part of the damage like any other record.
Cost: one hash of what was torn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from groove_trio.rules.chain import AUDIT_REPAIR, TORN_END
from groove_trio.words.actors import SYSTEM
from groove_trio.words.audit import AuditEntry


class Damage:
    """What failed writes and syncs left behind since the last one that succeeded.

    Args:
        torn: The torn piece found at the end of the log when it was opened.

    Attributes:
        why: What failed last, in a word; None while there is nothing to repair.
    """

    def __init__(self, torn: bytes = b"") -> None:
        self.why: str | None = "the daemon died while it wrote" if torn else None
        self._void = 0
        self._unsynced = 0
        self._set_torn(torn)

    def _set_torn(self, torn: bytes) -> None:
        self._torn_bytes, self._torn_hash = len(torn), hashlib.sha256(torn)

    @property
    def torn(self) -> bool:
        """Whether the log ends within a record."""
        return self._torn_bytes > 0

    @property
    def ending(self) -> bytes:
        """What ends the torn piece, to be written before the repair; nothing if none is torn."""
        return TORN_END if self._torn_bytes else b""

    def repair(self) -> AuditEntry:
        """The record that accounts for all of it, to be written after `ending`."""
        ending = self.ending
        torn = self._torn_hash.copy()
        torn.update(ending)
        detail = {
            "why": self.why,
            "torn": self._torn_bytes + len(ending),
            "sha256": torn.hexdigest(),
            "void": self._void,
            "unsynced": self._unsynced,
        }
        return AuditEntry(actor=SYSTEM, action=AUDIT_REPAIR, detail=detail)

    def mended(self) -> None:
        """The repair was written, and all that came with it."""
        self.why, self._void, self._unsynced = None, 0, 0
        self._set_torn(b"")

    def sync_failed(self, unsynced: int, why: str) -> None:
        """The last `unsynced` records may be lost."""
        self.why, self._unsynced = why, unsynced

    def write_failed(self, lines: Sequence[bytes], data: bytes, why: str) -> int:
        """Takes stock after a write that failed.

        Args:
            lines: What should have been written after `ending`; a repair first, if one was due.
            data: What of it all reached the file.
            why: What failed.

        Returns:
            How many whole lines did; they are in the chain.
        """
        repairing, self.why = self.why is not None, why
        position, whole = len(self.ending), 0
        for line in lines:
            if position + len(line) > len(data):
                break
            position += len(line)
            whole += 1
        if not whole:
            self._torn_bytes += len(data)
            self._torn_hash.update(data)
            return 0
        self._void = whole - repairing
        if repairing:
            self._unsynced = 0
        self._set_torn(data[position:])
        return whole
