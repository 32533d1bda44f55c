"""Names that steer an agent, an editor or a shell, and so are out of every scope.

Who may write a git hook, an agent's settings or an ``.envrc`` runs code outside of his scope, on
the next commit, the next start, the next ``cd``. So these names are denied even to the agent
whose scope holds them, and also while they are absent: creating one is the attack. Four rules:

- *At any depth.* Nested repositories have hooks of their own, and agents read the ``CLAUDE.md``
  of every directory they pass. A rule with ``/**`` covers the directory and all beneath.
- *Its holder, too.* Deleting or renaming ``.git`` replaces its hooks, and a file of that name
  points git elsewhere. So a directory on the way to a rule (``.git``, ``.github``, ``.vscode``)
  is shielded, but nothing else in it is; to make or to remove it empty changes nothing yet.
- *Not what packages ship.* Beneath a ``node_modules`` only git's names and the daemon's are
  protected: packages come with an ``AGENTS.md`` and with workflows of their own, which nobody
  runs there, and could not be installed otherwise.
- *Lifted only by name.* A pattern lifts a rule when it spells out every name down to the end of
  the rule's literal part: ``.github/workflows/*.yml`` does, ``.github/**`` and ``**/CLAUDE.md``
  do not. Braces spell out. ``.groove`` is the daemon's own and is never lifted.

Names are compared as they are spelled. On a file system that ignores case, ``claude.md`` is
the same file and not protected here; docs/discussion/scopes.md says what to do about it.

Cost: one look at the last name and one search for a leading dot, for all paths but the few
that have a name with one.
"""

from __future__ import annotations

from typing import Final, NamedTuple

PROTECTED: Final = (
    ".git/hooks/**",
    ".git/config",
    ".git/config.worktree",
    ".git/commondir",
    ".git/modules/**",
    ".groove/**",
    ".claude/**",
    ".codex/**",
    ".gemini/**",
    ".mcp.json",
    ".vscode/tasks.json",
    ".envrc",
    ".github/workflows/**",
    "CLAUDE.md",
    "AGENTS.md",
    "GEMINI.md",
)

PACKAGES: Final = "node_modules"
"""Beneath a directory of this name, only what begins with one of `EVERYWHERE` is protected."""

EVERYWHERE: Final = frozenset({".git", ".groove"})

NEVER_LIFTED: Final = frozenset({".groove/**"})


class Protection(NamedTuple):
    """Why a path is protected.

    Attributes:
        rule: The protected pattern.
        names: How many leading names of the path a pattern must spell out to lift it.
        lifted: Whether a pattern can lift it at all.
    """

    rule: str
    names: int
    lifted: bool


def _rules() -> dict[str, list[tuple[tuple[str, ...], bool, str]]]:
    rules: dict[str, list[tuple[tuple[str, ...], bool, str]]] = {}
    for pattern in PROTECTED:
        names = tuple(pattern.removesuffix("/**").split("/"))
        rules.setdefault(names[0], []).append((names, pattern.endswith("/**"), pattern))
    return rules


_RULES: Final = _rules()
_UNDOTTED: Final = frozenset(name for name in _RULES if not name.startswith("."))


def protected_by(path: str) -> str | None:
    """The protected pattern that a path falls under, itself or beneath, or None."""
    found = protection(path, shielded=False)
    return found.rule if found else None


def shields(path: str) -> str | None:
    """The protected pattern that lies beneath a path, such as ``.git``, or None."""
    found = protection(path)
    return found.rule if found and protected_by(path) is None else None


def protection(path: str, *, shielded: bool = True) -> Protection | None:
    """Why a path is protected, or None.

    Of several rules the one that is hardest to lift counts.

    Args:
        path: A resolved path, relative to the project root.
        shielded: Whether the directories on the way to a rule count, too.
    """
    if path[:1] != "." and "/." not in path and path.rpartition("/")[2] not in _UNDOTTED:
        return None
    names = path.split("/")
    found: Protection | None = None
    shipped = names.index(PACKAGES) if PACKAGES in names else len(names)
    for depth, name in enumerate(names):
        if depth > shipped and name not in EVERYWHERE:
            continue
        for literal, beneath, rule in _RULES.get(name, ()):
            rest = tuple(names[depth : depth + len(literal)])
            end = depth + len(rest)
            whole = rest == literal and (beneath or end == len(names))
            if whole or (shielded and end == len(names) and rest == literal[: len(rest)]):
                if rule in NEVER_LIFTED:
                    return Protection(rule, end, lifted=False)
                if found is None or end >= found.names:
                    found = Protection(rule, end, lifted=True)
    return found
