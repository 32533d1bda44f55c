"""The table of routes, and the way from a request to its handler.

A path that names a parameter takes one segment of plain characters for it: no percent sign,
dot or slash gets as far as a handler, so no route can be talked into another path. Two routes
of one method and path are an error at import.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from groove_trio.api import agents, coordination, credentials, daemon
from groove_trio.api.calls import Call, Route, decode_body, decode_query
from groove_trio.api.problems import problem
from groove_trio.wire.http import Request, Response
from groove_trio.words import errors, schemas
from groove_trio.words.actors import Actor
from groove_trio.words.errors import (
    GrooveError,
    MethodNotAllowed,
    NoSuchRoute,
    NotAllowed,
    UpgradeRequired,
    shown,
)

if TYPE_CHECKING:
    from groove_trio.verbs import Groove

CHANGING = (errors.AuditUnavailable, errors.Draining)
SPAWNING = (
    *CHANGING,
    errors.InvalidScope,
    errors.UnknownProvider,
    errors.OutsideProject,
    errors.ScopeOverlap,
    errors.NameTaken,
    errors.ContainmentUnavailable,
    errors.SpawnFailed,
    errors.OutOfResources,
    errors.MachineChanged,
    errors.SealBroken,
    errors.VaultUnavailable,
)
SEALED = (errors.MachineChanged, errors.SealBroken, errors.VaultUnavailable, *CHANGING)
AGENT = "/api/agents/{id}"
CREDENTIAL = "/api/credentials/{provider}"
UNKNOWN = (errors.UnknownAgent,)
WRONG = (*UNKNOWN, errors.WrongState, *CHANGING)

ROUTES: Sequence[Route] = (
    Route("GET", "/api/health", daemon.health, "Is it alive?", schemas.Health, agents=True),
    Route("GET", "/api/status", daemon.status, "The daemon", schemas.Status, agents=True),
    Route("GET", "/api/openapi.json", daemon.openapi, "This document", dict),
    Route("GET", "/api/providers", daemon.providers, "The providers", list[schemas.ProviderView]),
    Route("GET", "/api/agents", agents.list_agents, "All agents", list[schemas.AgentView]),
    Route(
        "POST",
        "/api/agents",
        agents.create,
        "Spawn an agent",
        schemas.AgentView,
        body=schemas.AgentSpec,
        status=201,
        errors=SPAWNING,
    ),
    Route("GET", AGENT, agents.show, "One agent", schemas.AgentView, errors=UNKNOWN),
    Route(
        "PATCH",
        AGENT,
        agents.change,
        "Change an agent",
        schemas.AgentView,
        body=schemas.AgentPatch,
        errors=(*UNKNOWN, errors.NameTaken, *CHANGING),
    ),
    Route("DELETE", AGENT, agents.remove, "Forget an agent", schemas.AgentView, errors=WRONG),
    Route(
        "POST",
        AGENT + "/stop",
        agents.stop,
        "Stop an agent",
        schemas.AgentView,
        body=schemas.StopRequest,
        errors=WRONG,
    ),
    Route(
        "POST",
        AGENT + "/restart",
        agents.restart,
        "Restart an agent",
        schemas.AgentView,
        errors=(*UNKNOWN, errors.WrongState, *SPAWNING),
    ),
    Route(
        "POST",
        AGENT + "/resume",
        agents.resume,
        "Resume an interrupted agent",
        schemas.AgentView,
        errors=(*UNKNOWN, errors.WrongState, *SPAWNING),
    ),
    Route(
        "POST",
        AGENT + "/instruct",
        agents.instruct,
        "Hand an agent a follow-up",
        schemas.AgentView,
        body=schemas.InstructRequest,
        errors=WRONG,
    ),
    Route(
        "GET",
        AGENT + "/output",
        agents.output,
        "What an agent wrote",
        schemas.OutputPage,
        query=agents.PageQuery,
        agents=True,
        errors=UNKNOWN,
    ),
    Route("GET", "/api/locks", coordination.locks, "Who holds what", schemas.LocksView),
    Route(
        "GET",
        "/api/explain",
        coordination.explain,
        "Who may write a path",
        schemas.Explanation,
        query=coordination.ExplainQuery,
    ),
    Route(
        "POST",
        "/api/knock",
        coordination.knock,
        "May an agent do this?",
        schemas.KnockAnswer,
        body=coordination.KnockBody,
        query=coordination.KnockQuery,
        agents=True,
        errors=(errors.Busy,),
    ),
    Route("GET", "/api/coordination", coordination.leases, "The leases", list[schemas.Lease]),
    Route(
        "POST",
        "/api/coordination/declare",
        coordination.declare,
        "Take a lease",
        schemas.Lease,
        body=schemas.DeclareRequest,
        agents=True,
        errors=(*UNKNOWN, errors.Locked, errors.OutsideProject, *CHANGING),
    ),
    Route(
        "POST",
        "/api/coordination/complete",
        coordination.complete,
        "Give leases back",
        list[schemas.Lease],
        body=schemas.CompleteRequest,
        agents=True,
        errors=(*UNKNOWN, errors.UnknownLease, *CHANGING),
    ),
    Route(
        "GET",
        "/api/credentials",
        credentials.list_credentials,
        "The stored keys, without their values",
        list[schemas.CredentialView],
        errors=(errors.SealBroken, errors.VaultUnavailable),
    ),
    Route(
        "PUT",
        CREDENTIAL,
        credentials.set_credential,
        "Store a provider's key",
        schemas.CredentialView,
        body=schemas.CredentialRequest,
        errors=(*SEALED, errors.OutOfResources),
    ),
    Route(
        "DELETE",
        CREDENTIAL,
        credentials.remove_credential,
        "Forget a provider's key",
        schemas.CredentialView,
        errors=(errors.UnknownCredential, *SEALED),
    ),
    Route(
        "GET",
        "/api/audit",
        daemon.audit,
        "The audit log",
        schemas.AuditPage,
        query=daemon.AuditQuery,
    ),
    Route("GET", "/api/audit/verify", daemon.verify, "Verify the audit log", schemas.Verification),
)

FEED_PATH = "/ws"
PARAMETER = re.compile(r"\{(\w+)\}")
_VALUE = r"(?P<\1>[A-Za-z0-9_-]{1,64})"


def _index(routes: Sequence[Route]) -> dict[str, dict[str, Route]]:
    table: dict[str, dict[str, Route]] = {}
    for route in routes:
        methods = table.setdefault(route.path, {})
        if route.method in methods:
            raise RuntimeError(f"two routes for {route.method} {route.path}")
        methods[route.method] = route
    return table


_FIXED = _index(ROUTES)
_TEMPLATES = [
    (re.compile(r"\A" + PARAMETER.sub(_VALUE, path) + r"\Z"), methods)
    for path, methods in _FIXED.items()
    if "{" in path
]
_BESIDE: Mapping[str, Sequence[str]] = {
    FEED_PATH: ["GET"],
    "*": list(dict.fromkeys(route.method for route in ROUTES)),  # only OPTIONS may ask about it
}
"""What is no route and has methods all the same."""

_encode = msgspec.json.Encoder().encode
_JSON = ((b"content-type", b"application/json"),)
_NOPARAMETERS: Mapping[str, str] = {}


def find(method: str, path: str) -> tuple[Route, Mapping[str, str]]:
    """The route for a method and a path, and the values of the path's parameters.

    Raises:
        NoSuchRoute: No route has this path.
        MethodNotAllowed: Routes have it, none with this method.
        UpgradeRequired: It is the feed's, which speaks WebSocket.
    """
    if path == FEED_PATH and method in {"GET", "HEAD"}:
        raise UpgradeRequired(f"{FEED_PATH} speaks WebSocket; ask for an upgrade")
    if path in _BESIDE:
        raise _wrong_method(path, _BESIDE[path])
    methods = _FIXED.get(path) if "{" not in path else None
    values = _NOPARAMETERS
    if methods is None:
        for template, candidates in _TEMPLATES:
            if match := template.match(path):
                methods, values = candidates, match.groupdict()
                break
        else:
            raise NoSuchRoute(f"there is nothing at {shown(path)}")
    route = methods.get("GET" if method == "HEAD" else method)
    if route is None:
        raise _wrong_method(path, methods)
    return route, values


def _wrong_method(path: str, methods: Collection[str]) -> MethodNotAllowed:
    allow = [*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"]
    return MethodNotAllowed(f"{shown(path)} takes {', '.join(allow)}", allow=allow)


def _check_rights(route: Route, actor: Actor) -> None:
    if actor.kind == "agent" and not route.agents:
        raise NotAllowed("an agent may not do this; ask the owner")


def urgent(request: Request) -> bool:
    """Whether a request is answered ahead of others: whether the daemon lives is told at once."""
    return request.target == "/api/health"


async def answer(groove: Groove, request: Request, actor: Actor) -> Response:
    """Answers one admitted request; a refusal becomes its problem document."""
    path, _, query = request.target.partition("?")
    try:
        route, values = find(request.method, path)
        _check_rights(route, actor)
        call = Call(
            groove,
            actor,
            values,
            decode_query(query, route.query),
            decode_body(request.body, route.body),
        )
        return Response(route.status, _JSON, _encode(await route.handler(call)))
    except MethodNotAllowed as refusal:
        if request.method == "OPTIONS":  # RFC 9110, 9.3.7: what there is, and no grant to anyone
            return Response(204, ((b"allow", ", ".join(refusal.fields["allow"]).encode()),), b"")
        return problem(refusal)
    except NotAllowed as refusal:
        if actor.kind == "agent":
            await groove.refused(actor, request.method, path, refusal.detail)
        return problem(refusal)
    except GrooveError as refusal:
        return problem(refusal)
