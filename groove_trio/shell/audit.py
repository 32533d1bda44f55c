"""The audit log, written: append now, durable soon, and never a lie in the chain.

Appending is one ``write(2)`` into the page cache, in the caller's own step: no await lies
between the number a record gets and its place in the file, so records need no lock and stand
in the order of what they tell. Making them durable is another matter, left to one task that
syncs for everyone who waits (`GroupCommit`), and within 50 ms for records nobody waits for.

When a write fails, what it left stays where it is and is remembered. The next write that
succeeds begins with an ``audit.repair`` record that accounts for it (see `rules.damage`); the
task tries that by itself, so the log recovers when there is room again. When a sync fails, the
kernel has forgotten which pages it lost, so a later good sync proves nothing about them: those
who wait are told, nothing more is taken until a sync works, and the repair names how many
records are in doubt.

A segment that has grown past `SEGMENT_BYTES`, or whose times the clock has fallen behind, is
synced before the next begins; that sync, once in some 150,000 records, is the one that holds up
the trio thread.

The head is told to a file outside the log after the log was synced (see `vouch`).
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from groove_trio.rules.chain import (
    AUDIT_ACCEPT,
    AUDIT_CHECKPOINT,
    AUDIT_CLOCK,
    AUDIT_CLOSE,
    AUDIT_OPEN,
    CLOCK_SLACK_NS,
    digest_of,
)
from groove_trio.rules.damage import Damage
from groove_trio.shell.commit import GroupCommit
from groove_trio.shell.heads import look, verify_log
from groove_trio.shell.private import config_directory
from groove_trio.shell.segments import read_page
from groove_trio.shell.tape import Tape
from groove_trio.shell.vouch import Vouch
from groove_trio.words.actors import OWNER, SYSTEM
from groove_trio.words.audit import AuditEntry, AuditFilter, AuditPage
from groove_trio.words.clock import parse_rfc3339, rfc3339
from groove_trio.words.errors import AuditUnavailable, UnsafeState

__all__ = ["AuditLog", "open_audit", "verify_log"]

SEGMENT_BYTES = 64 * 2**20
SYNC_LAG_S = 0.03  # records are synced within 50 ms, of which the disk takes some
CLOSE_S = 10.0  # how long the last sync may take

ALL = AuditFilter()


class AuditLog:
    """The log of one project; got from `open_audit`, used from the trio thread.

    Attributes:
        directory: Where the segments are.
        config_dir: The user's own directory, with the seed and the checkpoint.
        seq: Number of the last record written.
    """

    def __init__(
        self,
        directory: Path,
        *,
        clock: Callable[[], int],
        config_dir: Path,
        segment_bytes: int = SEGMENT_BYTES,
        accept: bool = False,
    ) -> None:
        self.directory = directory
        self._clock = clock
        self.config_dir = config_dir
        self._tape = Tape(directory, segment_bytes)
        try:
            standing = look(config_dir, directory, self._tape.segments, accept=accept)
            self._seal, tail = standing.seal, standing.tail
            self._vouch = Vouch(config_dir, directory, standing.log)
            self.seq, self._head = tail.seq, tail.head
            if standing.new:
                self._vouch.tell()  # before the first record: no log of ours is without one
            self._tape.open()
        except BaseException:
            self._tape.close()
            raise
        self._objection = standing.objection
        self._latest = parse_rfc3339(tail.time) if tail.time else 0  # no record is later
        self._damage = Damage(tail.torn)
        self._doubtful = range(0)  # numbers of records that a failed sync may have lost
        self._commit = GroupCommit(self._prepare_sync, SYNC_LAG_S)
        self._failures = 0

    # What callers use

    @property
    def ok(self) -> bool:
        """Whether the last write and the last sync succeeded."""
        return self._damage.why is None and self._commit.error is None

    def append(self, entries: Sequence[AuditEntry]) -> int:
        """Writes records, all or none of them; does not checkpoint and does not sync.

        Returns:
            The number of the last one, for `durable`.

        Raises:
            AuditUnavailable: None of them counts. What of them reached the file is
                disowned by the repair record that comes before the next.
            TypeError: A detail holds something that JSON can't say; nothing was written.
        """
        if self._commit.error is not None:
            raise _unavailable(self._commit.error)
        return self._append(entries)

    async def durable(self, seq: int) -> None:
        """Waits until record `seq` is on disk. Always checkpoints; may be cancelled freely.

        Raises:
            AuditUnavailable: The disk reported an error: the record may be lost.
        """
        try:
            await self._commit.reached(seq)
        except OSError as error:
            raise _unavailable(error) from error
        if seq in self._doubtful:
            raise AuditUnavailable("The audit log could not be synced when this was recorded.")

    async def settled(self) -> None:
        """Waits until all that was recorded so far is on disk, as `durable`.

        Raises:
            OSError: Some of it may be lost.
        """
        try:
            await self.durable(self.seq)
        except AuditUnavailable as error:
            raise OSError(errno.EIO, error.detail) from error

    async def record(self, entry: AuditEntry) -> int:
        """Appends one record and waits until it is on disk; returns its number.

        Raises:
            AuditUnavailable: As `append` and `durable`.
        """
        seq = self.append([entry])
        await self.durable(seq)
        return seq

    async def read(self, after: int = 0, limit: int = 100, wanted: AuditFilter = ALL) -> AuditPage:
        """A page of records after number `after`; see `segments.read_page`. Always checkpoints.

        Raises:
            AuditUnavailable: The log can't be read.
        """
        try:
            return await trio.to_thread.run_sync(read_page, self.directory, wanted, after, limit)
        except (OSError, UnsafeState) as error:
            raise AuditUnavailable("The audit log cannot be read.") from error

    # Writing

    def _append(self, entries: Sequence[AuditEntry]) -> int:
        now, set_back = self._now()
        if set_back:
            entries = [_clock_entry(self._latest), *entries]
        repairing = self._damage.why is not None
        if repairing:
            entries = [self._damage.repair(), *entries]
        lines, head = self._seal.lines(entries, self.seq + 1, rfc3339(now), self._head)
        data = self._damage.ending + b"".join(lines)
        written, error = self._write(data, anew=set_back)
        if error is not None:
            if whole := self._damage.write_failed(lines, data[:written], _name(error)):
                self.seq += whole
                self._head = digest_of(lines[whole - 1][:-1])
                self._latest = now
            self._commit.changed(self.seq)  # so that the task tries a repair
            raise _unavailable(error) from error
        self.seq += len(lines)
        self._head, self._latest = head, now
        if repairing:
            self._damage.mended()
        self._commit.changed(self.seq)
        return self.seq

    def _now(self) -> tuple[int, bool]:
        """The time for the next records, and whether the clock was set back further than allowed.

        A torn piece is repaired in its own segment, so the time stands still until then.
        """
        now = self._clock()
        if now >= self._latest:
            return now, False
        if self._latest - now <= CLOCK_SLACK_NS or self._damage.torn:
            return self._latest, False
        return now, True

    def _write(self, data: bytes, *, anew: bool) -> tuple[int, OSError | None]:
        """Writes at the end of the log, in a new segment if the last is full or must end."""
        must = anew and not self._tape.fresh
        if must or (self._tape.full and not self._damage.torn):
            try:
                self._tape.sync()
            except OSError as error:
                self._sync_failed(error)
                return 0, error
            if not self._tape.roll() and must:
                return 0, OSError(errno.EIO, "no segment can be begun")
        return self._tape.write(data)

    # Syncing

    async def begin(self) -> None:
        """Records the opening and syncs it; `open_audit` calls this.

        Raises:
            AuditUnavailable: The log can't be written.
        """
        entries = [AuditEntry(actor=SYSTEM, action=AUDIT_OPEN, detail={"pid": os.getpid()})]
        if self._objection is not None:
            detail = self._objection.fields
            entries.insert(0, AuditEntry(actor=OWNER, action=AUDIT_ACCEPT, detail=detail))
        seq = self.append(entries)
        try:
            await trio.to_thread.run_sync(self._tape.sync)
            self._vouch.synced = (seq, self._head)
            await trio.to_thread.run_sync(self._vouch.tell)
        except OSError as error:
            raise _unavailable(error) from error
        self._commit.done = seq

    async def keep_synced(self) -> None:
        """Syncs, and repairs, whenever there is something to, until cancelled."""
        await self._commit.run()

    async def keep_vouched(self) -> None:
        """Tells the head to the checkpoint after syncs, until cancelled."""
        await self._vouch.run(self._commit, self._report)

    def _report(self, error: str | None) -> None:
        entry = AuditEntry(actor=SYSTEM, action=AUDIT_CHECKPOINT, detail={"error": error})
        with suppress(AuditUnavailable):
            self.append([entry])

    def _prepare_sync(self) -> Callable[[], None]:
        if self._commit.failures != self._failures:
            self._failures = self._commit.failures
            self._sync_failed(self._commit.error)
        if self._damage.why is not None and self._commit.error is None:
            with suppress(AuditUnavailable):
                self._append(())
        sync, head = self._tape.sync_job(), (self.seq, self._head)

        def job() -> None:
            sync()
            self._vouch.synced = head

        return job

    def _sync_failed(self, error: OSError | None) -> None:
        self._doubtful = range(self._commit.done + 1, self.seq + 1)
        self._damage.sync_failed(len(self._doubtful), _name(error))

    def close(self) -> None:
        """Syncs and vouches for the last time and lets the files go; blocks for the disk."""
        try:
            with suppress(OSError, UnsafeState):
                self._tape.sync()
                self._vouch.synced = (self.seq, self._head)
                self._vouch.tell()
        finally:
            self._tape.close()


@asynccontextmanager
async def open_audit(
    directory: Path,
    *,
    clock: Callable[[], int] = time.time_ns,
    config_dir: Path | None = None,
    segment_bytes: int = SEGMENT_BYTES,
    accept: bool = False,
) -> AsyncGenerator[AuditLog]:
    """Opens the log of a project for writing, with ``audit.open``; ends it with ``audit.close``.

    Runs the task that syncs in a nursery of its own, so what the block raises comes out in an
    exception group. A torn tail left by a crash is repaired first.

    Args:
        directory: Made, private, if it is not there; its parent must be.
        clock: Nanoseconds since the epoch.
        config_dir: Where the seed and the checkpoint are; the user's own directory if not told.
        segment_bytes: The size past which the next segment begins.
        accept: Whether to go on with a log that is not what its checkpoint knows, and record so.

    Raises:
        AlreadyRunning: Another process writes this log.
        AuditTampered: The log is not what its checkpoint knows.
        UnsafeState: A file has the wrong owner, mode or type, or the last line is damaged.
        AuditUnavailable: The log can't be written.
    """
    try:
        log = AuditLog(
            directory,
            clock=clock,
            config_dir=config_dir or config_directory(),
            segment_bytes=segment_bytes,
            accept=accept,
        )
    except OSError as error:
        raise _unavailable(error) from error
    try:
        await log.begin()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.keep_synced)
            nursery.start_soon(log.keep_vouched)
            try:
                yield log
            finally:
                with suppress(AuditUnavailable):
                    log.append([AuditEntry(actor=SYSTEM, action=AUDIT_CLOSE)])
                nursery.cancel_scope.cancel()
    finally:
        # The last sync: the disk may take long, but not for ever.
        with trio.move_on_after(CLOSE_S, shield=True):
            await trio.to_thread.run_sync(log.close, abandon_on_cancel=True)


def accept_log(directory: Path, config_dir: Path | None = None) -> str | None:
    """Goes on with a log that is not what its checkpoint knows; runs a loop of its own.

    Returns:
        What was wrong; None if nothing was, and then nothing was recorded.

    Raises:
        AlreadyRunning, UnsafeState, AuditUnavailable: As `open_audit`.
    """
    config_dir = config_dir or config_directory()
    try:
        tape = Tape(directory, SEGMENT_BYTES)
        try:
            objection = look(config_dir, directory, tape.segments, accept=True).objection
        finally:
            tape.close()
    except OSError as error:
        raise _unavailable(error) from error
    if objection is None:
        return None

    async def work() -> None:
        async with open_audit(directory, config_dir=config_dir, accept=True):
            pass

    trio.run(work)
    return str(objection.fields["problem"])


def _clock_entry(latest: int) -> AuditEntry:
    return AuditEntry(actor=SYSTEM, action=AUDIT_CLOCK, detail={"before": rfc3339(latest)})


def _name(error: OSError | None) -> str:
    return errno.errorcode.get((error and error.errno) or 0, "an error")


def _unavailable(error: OSError) -> AuditUnavailable:
    tampered = error.errno == errno.ESTALE
    why = "its file was changed or removed by another program" if tampered else _name(error)
    return AuditUnavailable(
        f"The audit log cannot be written ({why}); nothing changes until it can.",
        errno=_name(error),
    )
