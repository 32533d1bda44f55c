"""Which paths an agent's wall grants: a Landlock ruleset, and what it holds of each pattern.

Landlock allows and never subtracts: what is granted on a directory holds for all beneath it,
for ever. So whatever is to stay closed is left out, by granting all its siblings, and the
siblings of every directory on the way to it. A name that comes to be there later is granted to
no agent that runs already.

*Reading.* Everything but the hidden paths can be read and executed. The names in every directory
can be listed, hidden or not: otherwise nobody could list ``/``. The project root is granted as a
whole, since new files must be readable; what is hidden and lies inside of it, or of another
directory that is granted as a whole, is exposed, and told. The daemon's own ``.groove`` always is.

*Writing.* At level ``gate`` a process may change nothing itself but its temporary directory, the
state of its provider, and a few devices; the daemon performs the rest, on descriptors of its own
that no wall looks at. At level ``wall`` a pattern grants the directory that its literal names
lead to. Where a protected name is known to lie in that directory, such as ``.groove`` or
``.git/hooks``, the names in it are granted one by one.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from groove_trio.rules import landlock
from groove_trio.rules.landlock import READ_DIR, READING, WRITE_FILE, WRITING, Ruleset
from groove_trio.rules.patterns import expand
from groove_trio.rules.protected import protected_by, protection, shields
from groove_trio.rules.scopes import Scope
from groove_trio.words.agents import Hold

DEVICES = tuple(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty"))
"""Devices that programs write to and that keep nothing."""

TERMINALS = ("/dev/ptmx", "/dev/pts")
"""Terminals of a program's own; at level ``wall`` the user's others as well, since a program
that makes one of its own must open it by name. The gate knows which are whose."""

SCREENS = ("/dev/pts", "/dev/console", "/dev/tty[0-9]*", "/dev/ttyS*", "/dev/vcs*")
"""Where the user sits. Who reads there takes what is typed, and who opens one that is no session's
may have it for his own, and then write to it as ``/dev/tty``. At level ``gate`` they are closed:
an agent's own terminals are opened for it."""

MAX_LISTED = 5  # directories named in a reason; enough to see the kind

How = Literal["exact", "wider", "narrower"]  # as `words.agents.Hold` has it
_WILD = frozenset("*?[")

Grants = list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Wall:
    """A wall, ready to be built by the launcher.

    Attributes:
        ruleset: What Landlock is given.
        patterns: How each pattern is held.
        exposed: Hidden paths whose content can be read all the same.
    """

    ruleset: Ruleset
    patterns: tuple[Hold, ...]
    exposed: tuple[str, ...]


def build_wall(
    *,
    level: Literal["gate", "wall"],
    project: str,
    tmp: str,
    patterns: Iterable[str],
    hidden: Iterable[str],
    version: int,
    states: Iterable[str] = (),
) -> Wall:
    """Says what an agent is granted. Blocks for looks at directories; call it in a thread.

    Args:
        level: ``gate``: patterns grant nothing, the gate performs; ``wall``: they do.
        project: The project root: absolute, without links.
        tmp: The agent's own temporary directory.
        patterns: Its scope.
        hidden: Absolute paths that agents must not read; both names of each that is a link.
        version: The version of Landlock's interface.
        states: Directories and files where its provider keeps what it has to keep.
    """
    kept = [os.path.realpath(path) for path in (tmp, *states)]
    secret = sorted({os.path.normpath(path) for path in hidden})
    grants: Grants = [("/", READ_DIR), (project, READING)]
    closed = [*secret, *_screens()] if level == "gate" else secret
    grants += [(path, READING) for path in _open_siblings("/", closed)]
    grants += [(path, READING | WRITING) for path in kept]
    devices = DEVICES if level == "gate" else (*DEVICES, *TERMINALS)
    grants += [(path, WRITE_FILE) for path in devices]
    held: list[Hold] = []
    for pattern in patterns:
        if level == "gate":
            held.append(Hold(pattern=pattern, by="gate", how="exact"))
        else:
            writable, how, why = _of_pattern(project, pattern)
            grants += [(path, WRITING) for path in writable]
            held.append(Hold(pattern=pattern, by="wall", how=how, why=why))
    handled = landlock.handled(version)
    rules = tuple((path, rights & handled) for path, rights in grants)
    whole = (project, *kept)
    exposed = [path for path in (f"{project}/.groove", *secret) if _beneath_any(path, whole)]
    return Wall(Ruleset(handled, landlock.scoped(version), rules), tuple(held), tuple(exposed))


def _screens() -> list[str]:
    return [path for pattern in SCREENS for path in glob.glob(pattern)]


def _open_siblings(directory: str, secret: list[str]) -> Iterator[str]:
    """All that is in a directory but for the secret paths, in as few pieces as can be."""
    for path, is_link, is_directory in _entries(directory):
        # A link needs no grant: what is behind it has a name of its own, and may be secret.
        if is_link or path in secret:
            continue
        if not any(each.startswith(f"{path}/") for each in secret):
            yield path
        elif is_directory:
            yield from _open_siblings(path, secret)


def _of_pattern(project: str, pattern: str) -> tuple[list[str], How, str]:
    """What a pattern grants to write, how well that holds it, and why."""
    told = [(text, *_of_text(project, text)) for text in expand(pattern)]
    writable = list(dict.fromkeys(path for _, paths, _, _ in told for path in paths))
    hows: set[How] = {how for _, _, how, _ in told}
    how: How = "wider" if "wider" in hows else "narrower"
    return writable, how, "; ".join(dict.fromkeys(why for *_, why in told))


def _of_text(project: str, text: str) -> tuple[list[str], How, str]:
    """The same of one expansion. What it grants is never more than what a directory holds."""
    directory = _literal_directory(text)
    place = f"{project}/{directory}".rstrip("/")
    shown = f"{directory}/" if directory else "the project root"
    if not os.path.isdir(place):
        return [], "narrower", f"{shown} was no directory when the agent started"
    if os.path.realpath(place) != place:
        return [], "narrower", f"{shown} is a link, and scopes are on what is behind links"
    guard = protection(directory, shielded=False) if directory else None
    if guard is not None and not (guard.lifted and directory.count("/") + 1 >= guard.names):
        return [], "narrower", f"{shown} is protected by {guard.rule}"
    if directory and shields(directory) is None:
        if text in {f"{directory}/", f"{directory}/**"}:
            return [place], "wider", f"protected names in {shown} can be written, too"
        return [place], "wider", f"all of {shown} can be written"
    writable = list(_carved(project, directory, Scope((text,))))
    why = f"no new names can be made directly in {shown}"
    wholes = [path[len(project) + 1 :] for path in writable if os.path.isdir(path)]
    if not wholes:
        return writable, "narrower", why
    return writable, "wider", f"{why}, and all of {_listed(wholes)} can be written"


def _carved(project: str, directory: str, scope: Scope) -> Iterator[str]:
    """What of a directory a scope reaches, but for what is protected."""
    for path, is_link, is_directory in _entries(f"{project}/{directory}".rstrip("/")):
        name = path[len(project) + 1 :]
        if is_link or (protected_by(name) is not None and scope.permits(name)[1] is not None):
            continue
        if is_directory and scope.reaches(f"{name}/"):
            if shields(name) is None:
                yield path
            else:
                yield from _carved(project, name, scope)
        elif not is_directory and scope.matches(name):
            yield path


def _listed(names: list[str]) -> str:
    listed = ", ".join(f"{name}/" for name in sorted(names)[:MAX_LISTED])
    return listed if len(names) <= MAX_LISTED else f"{listed} and {len(names) - MAX_LISTED} more"


def _literal_directory(text: str) -> str:
    *names, _ = (f"{text}**" if text.endswith("/") else text).split("/")
    literal: list[str] = []
    for name in names:
        if _WILD & set(name):
            break
        literal.append(name)
    return "/".join(literal)


def _entries(directory: str) -> list[tuple[str, bool, bool]]:
    try:
        with os.scandir(directory) as entries:
            return [
                (
                    f"{directory.rstrip('/')}/{entry.name}",
                    entry.is_symlink(),
                    entry.is_dir(follow_symlinks=False),
                )
                for entry in entries
            ]
    except OSError:
        return []  # nothing can be told apart in it, so nothing of it is granted


def _beneath_any(path: str, directories: Iterable[str]) -> bool:
    return any(path == each or path.startswith(f"{each}/") for each in directories)
