"""Runs several AI coding agents side by side on one project, each kept to its files.

What stands in `__all__` is the public promise; everything else may change. Importing this
package loads nothing: each name is fetched from its module when it is first asked for
(PEP 562), so that a hook or a completion that needs one word does not pay for the daemon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from groove_trio.client import connect_groove
    from groove_trio.config import Config
    from groove_trio.groove import Groove, open_groove
    from groove_trio.rules.scopes import Scope, overlap
    from groove_trio.words import errors, events, schemas
    from groove_trio.words.errors import GrooveError
    from groove_trio.words.schemas import (
        OWNER,
        Actor,
        AgentId,
        AgentPatch,
        AgentSpec,
        AgentView,
        CredentialView,
        Decision,
        Denied,
        Explanation,
        Granted,
        Knock,
        Lease,
        LeaseId,
        OutputLine,
        OutputPage,
        Restart,
        Secret,
        Status,
    )

__version__ = "0.1.0"

__all__ = [
    "OWNER",
    "Actor",
    "AgentId",
    "AgentPatch",
    "AgentSpec",
    "AgentView",
    "Config",
    "CredentialView",
    "Decision",
    "Denied",
    "Explanation",
    "Granted",
    "Groove",
    "GrooveError",
    "Knock",
    "Lease",
    "LeaseId",
    "OutputLine",
    "OutputPage",
    "Restart",
    "Scope",
    "Secret",
    "Status",
    "__version__",
    "connect_groove",
    "errors",
    "events",
    "open_groove",
    "overlap",
    "schemas",
]

_MODULES = frozenset({"errors", "events", "schemas"})  # of groove_trio.words
_HOMES = {
    "Config": "groove_trio.config",
    "Groove": "groove_trio.groove",
    "GrooveError": "groove_trio.words.errors",
    "Scope": "groove_trio.rules.scopes",
    "connect_groove": "groove_trio.client",
    "open_groove": "groove_trio.groove",
    "overlap": "groove_trio.rules.scopes",
}
_HOME_OF_THE_REST = "groove_trio.words.schemas"


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - paid for by whoever asks

    if name in _MODULES:
        found: object = import_module(f"groove_trio.words.{name}")
    else:
        found = getattr(import_module(_HOMES.get(name, _HOME_OF_THE_REST)), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
