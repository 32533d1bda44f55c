"""What a daemon is told before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from groove_trio.rules.admission import DEFAULT_HOST

if TYPE_CHECKING:
    from groove_trio.providers.base import Provider


@dataclass(frozen=True, kw_only=True)
class Config:
    """How to open a groove. None of it can make the daemon face a network.

    Attributes:
        project: The project root; made absolute, symlinks resolved, when opened.
        host: A loopback address or a name for one; anything else is refused.
        port: ``None`` tries 31415 and then 31416 to 31425; ``0`` takes any free port;
            another number takes that port or fails.
        providers: Further providers, beside the built-in ``command`` and ``demo``.
        drain_s: How long, in seconds, connections may take to end at shutdown.
        adopt_orphans: Whether this process becomes the child subreaper while the groove
            is open. Without it a grandchild that leaves its session can outlive its agent.
        kill_strangers: Whether adopted processes that belong to no agent are ended too.
            The daemon sets it; a program that starts children of its own does not.
        descriptor_limit: The soft limit of open descriptors that agents get, where it is not
            this process's own; a daemon raises its own and hands on what it was.
        config_dir: Where the user's seed, stored keys and the heads of audit logs are; ``None``
            for the usual place, such as ``~/.config/groove-trio``.
        guard_pid: The guard process that this one runs under, for the record.
    """

    project: Path
    host: str = DEFAULT_HOST
    port: int | None = None
    providers: Sequence[Provider] = field(default=())
    drain_s: float = 5.0
    adopt_orphans: bool = True
    kill_strangers: bool = False
    config_dir: Path | None = None
    guard_pid: int | None = None
    descriptor_limit: int | None = None
