"""Every way of saying no: one tree of errors, each with a slug, a status and typed fields.

A refusal that is part of the answer (a denied knock) is a value, not one of these. A message
says what was wrong, the value (bounded and escaped), the limit, and what to do. The edge
turns an error into ``application/problem+json`` (RFC 9457) and never adds to it; the command
line turns it into one line and an exit code.
"""

from __future__ import annotations

from typing import Any, ClassVar

EXIT_FAILURE = 1
EXIT_USAGE = 2  # what command lines use for a wrong call, by custom
EXIT_REFUSED = 3
EXIT_UNREACHABLE = 4
EXIT_DIFFERS = 5

MAX_SHOWN = 80  # characters of a value in a message: a line of a terminal


def shown(value: object, limit: int = MAX_SHOWN) -> str:
    """A value fit for a message: escaped, quoted, and cut at `limit` characters."""
    text = value if isinstance(value, str) else repr(value)
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return ascii(cut) if not cut.isprintable() else f"'{cut}'"


class GrooveError(Exception):
    """Base of all errors of this package.

    Attributes:
        slug: Names the kind, stable; the ``type`` of the problem document is
            ``urn:groove-trio:problem:<slug>``.
        status: HTTP status of the answer.
        title: One phrase for the kind, the same for every instance.
        exit_code: What the command line exits with.
        detail: This instance in one or two sentences.
        fields: Typed extras, camelCase, that a program can act on.
    """

    slug: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong inside the daemon"
    exit_code: ClassVar[int] = EXIT_FAILURE

    def __init__(self, detail: str = "", **fields: Any) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.fields: dict[str, Any] = fields


# The request itself


class BadRequest(GrooveError):
    """The request could not be understood or breaks a schema; `field` names where."""

    slug = "bad-request"
    status = 400
    title = "The request is not valid"
    exit_code = EXIT_USAGE


class InvalidScope(BadRequest):
    """A scope pattern breaks the language; `pattern` and `reason` say which and why."""

    slug = "invalid-scope"
    title = "A scope pattern is not valid"


class UnknownProvider(BadRequest):
    """No provider goes by that name; `known` lists those that exist."""

    slug = "unknown-provider"
    title = "There is no such provider"


class OutsideProject(BadRequest):
    """A working directory or path does not lie inside the project."""

    slug = "outside-project"
    title = "The path is outside the project"


class NotAdmitted(GrooveError):
    """The door refused: wrong Host, Origin, or peer."""

    slug = "not-admitted"
    status = 403
    title = "The daemon does not talk to this caller"
    exit_code = EXIT_REFUSED


class NotAllowed(GrooveError):
    """The caller is known and may not do this."""

    slug = "not-allowed"
    status = 403
    title = "The caller may not do this"
    exit_code = EXIT_REFUSED


class NoSuchRoute(GrooveError):
    """No route has this path."""

    slug = "no-such-route"
    status = 404
    title = "There is nothing at this path"


class UnknownAgent(GrooveError):
    """No agent has this id or name."""

    slug = "unknown-agent"
    status = 404
    title = "There is no such agent"


class UnknownCredential(GrooveError):
    """No key is stored for this provider."""

    slug = "unknown-credential"
    status = 404
    title = "There is no such credential"


class UnknownLease(GrooveError):
    """No lease has this id, or it is not the caller's."""

    slug = "unknown-lease"
    status = 404
    title = "There is no such lease"


class MethodNotAllowed(GrooveError):
    """The path exists, but not with this method; the answer's Allow header lists those it has."""

    slug = "method-not-allowed"
    status = 405
    title = "The path does not take this method"


class RequestTimeout(GrooveError):
    """The request did not arrive whole in time."""

    slug = "request-timeout"
    status = 408
    title = "The request took too long to arrive"


class ScopeOverlap(GrooveError):
    """Two scopes share a path: `witness` is one, `owner` holds the other scope."""

    slug = "scope-overlap"
    status = 409
    title = "The scope overlaps another agent's"
    exit_code = EXIT_REFUSED


class NameTaken(GrooveError):
    """Another agent goes by this name."""

    slug = "name-taken"
    status = 409
    title = "The name is taken"
    exit_code = EXIT_REFUSED


class WrongState(GrooveError):
    """The agent's state does not allow this; `state` says which it is in."""

    slug = "wrong-state"
    status = 409
    title = "The agent is not in a state for this"
    exit_code = EXIT_REFUSED


class MachineChanged(GrooveError):
    """Stored keys were sealed under another machine: `changed` lists what of it differs."""

    slug = "machine-changed"
    status = 409
    title = "The stored keys belong to another machine"
    exit_code = EXIT_REFUSED


class SealBroken(GrooveError):
    """The stored keys are not what was stored: damaged or changed; see `reason`."""

    slug = "seal-broken"
    status = 409
    title = "The stored keys are not what was stored"
    exit_code = EXIT_REFUSED


class PayloadTooLarge(GrooveError):
    """The body is larger than `limit` bytes."""

    slug = "payload-too-large"
    status = 413
    title = "The body is too large"


class UriTooLong(GrooveError):
    """The request target is longer than `limit` bytes."""

    slug = "uri-too-long"
    status = 414
    title = "The path is too long"


class UnsupportedMediaType(GrooveError):
    """A body came with another content type than ``application/json``."""

    slug = "unsupported-media-type"
    status = 415
    title = "The body must be application/json"


class ExpectationFailed(GrooveError):
    """The request expects something else of the server than ``100-continue``."""

    slug = "expectation-failed"
    status = 417
    title = "The server does not do what the request expects of it"


class ContainmentUnavailable(GrooveError):
    """More containment was asked for than this machine gives; `available` lists what there is."""

    slug = "containment-unavailable"
    status = 422
    title = "The containment asked for is not available"
    exit_code = EXIT_REFUSED


class SpawnFailed(GrooveError):
    """The program could not be started; `errno` is its symbolic name, such as ``ENOENT``."""

    slug = "spawn-failed"
    status = 422
    title = "The program could not be started"


class Locked(GrooveError):
    """The path is owned or leased: `owner`, `resource`, and `until` (null: while it runs)."""

    slug = "locked"
    status = 423
    title = "Another agent holds this path"
    exit_code = EXIT_REFUSED


class UpgradeRequired(GrooveError):
    """The route speaks WebSocket only."""

    slug = "upgrade-required"
    status = 426
    title = "This path speaks WebSocket"


class HeadersTooLarge(GrooveError):
    """The header block is larger than `limit` bytes or has too many fields."""

    slug = "headers-too-large"
    status = 431
    title = "The header fields are too large"


class NotImplementedHere(GrooveError):
    """The method or transfer coding is not one this server knows."""

    slug = "not-implemented"
    status = 501
    title = "The server does not know this method or coding"


class BadAnswer(GrooveError):
    """What the other side answered is not valid HTTP or WebSocket; only clients see this."""

    slug = "bad-answer"
    status = 502
    title = "The answer is not valid"
    exit_code = EXIT_UNREACHABLE


class Busy(GrooveError):
    """A queue or a cap is full; try again shortly."""

    slug = "busy"
    status = 503
    title = "The daemon is busy"


class Draining(GrooveError):
    """The daemon is shutting down."""

    slug = "draining"
    status = 503
    title = "The daemon is shutting down"


class AuditUnavailable(GrooveError):
    """The audit log cannot be written, so nothing may change."""

    slug = "audit-unavailable"
    status = 503
    title = "The audit log cannot be written"


class VaultUnavailable(GrooveError):
    """The files that hold the stored keys can't be used; `reason` says why."""

    slug = "vault-unavailable"
    status = 503
    title = "The stored keys cannot be reached"


class VersionNotSupported(GrooveError):
    """The request speaks another version of HTTP than 1.1 or 1.0."""

    slug = "version-not-supported"
    status = 505
    title = "The server speaks HTTP/1.1"


class OutOfResources(GrooveError):
    """The machine is out of processes, memory or descriptors; `errno` is its symbolic name."""

    slug = "out-of-resources"
    status = 503
    title = "The machine is out of resources"


# The daemon and its surroundings; never an HTTP answer


class BindRefused(GrooveError):
    """The address asked for is not loopback."""

    slug = "bind-refused"
    title = "The daemon only listens on this machine"
    exit_code = EXIT_REFUSED


class PortTaken(GrooveError):
    """No port of the range is free."""

    slug = "port-taken"
    title = "The port is taken"


class AlreadyRunning(GrooveError):
    """A daemon already runs for this project."""

    slug = "already-running"
    title = "A daemon already runs for this project"
    exit_code = EXIT_REFUSED


class UnsafeState(GrooveError):
    """A state file has the wrong owner, mode or type."""

    slug = "unsafe-state"
    title = "A state file is not safe to use"


class AuditTampered(GrooveError):
    """The audit log is not what its checkpoint knows; `expected` and `found` tell it apart."""

    slug = "audit-tampered"
    title = "The audit log is not what was written"
    exit_code = EXIT_DIFFERS


class Unsupported(GrooveError):
    """This system lacks what the daemon relies on to tell callers apart."""

    slug = "unsupported"
    title = "The daemon can't keep others out on this system"
    exit_code = EXIT_REFUSED


class Unreachable(GrooveError):
    """No daemon answers for this project."""

    slug = "unreachable"
    title = "No daemon answers"
    exit_code = EXIT_UNREACHABLE


class RemoteError(GrooveError):
    """An answer of the daemon with a slug this client does not know; `status` is in `fields`."""

    slug = "remote-error"
    title = "The daemon refused"
