"""One request on its way to a handler: its query and body decoded, its caller known."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import parse_qsl

import msgspec

from groove_trio.wire.strict import decode
from groove_trio.words.actors import Actor
from groove_trio.words.errors import BadRequest, GrooveError, NotAllowed, UnknownAgent, shown

if TYPE_CHECKING:
    from groove_trio.verbs import Groove

MAX_QUERY_FIELDS = 16  # no route takes more than five

Q = TypeVar("Q")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Call(Generic[Q, B]):
    """What a handler gets: the groove, who asks, and the decoded parts of the request."""

    groove: Groove
    actor: Actor
    params: Mapping[str, str]
    query: Q
    body: B

    def agent(self, *named: str) -> str:
        """The agent this is about: the caller itself if it is one, else the first that is named.

        Args:
            *named: What the request says, by id or name; empty where it says nothing.

        Raises:
            BadRequest: The owner named none.
            NotAllowed: An agent named another.
        """
        names = [name for name in named if name]
        if self.actor.kind != "agent":
            if not names:
                raise BadRequest("the request names no agent: give 'agent'", field="agent")
            return names[0]
        for name in names:
            if not self._is_caller(name):
                raise NotAllowed(f"agent {self.actor.name} may not speak for {shown(name)}")
        return self.actor.name

    def _is_caller(self, name: str) -> bool:
        try:
            return name == self.actor.name or self.groove.agent(name).id == self.actor.name
        except UnknownAgent:
            return False


Handler = Callable[[Call[Any, Any]], Awaitable[object]]


@dataclass(frozen=True)
class Route:
    """One line of the table.

    Attributes:
        method: The HTTP method.
        path: A template such as ``/api/agents/{id}``; a parameter fills one segment.
        handler: Turns a `Call` into the answer, which is encoded as JSON.
        summary: One line for the reference.
        answer: The type of the answer.
        body: The type of the request body; None where none is taken.
        query: The type of the query; None where none is taken.
        status: The status of the answer when all went well.
        agents: Whether an agent may call it too, on its own behalf, and not only the owner.
        errors: The errors it can answer with beyond those of every route.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answer: Any
    body: Any = None
    query: Any = None
    status: int = 200
    agents: bool = False
    errors: tuple[type[GrooveError], ...] = field(default=())


def decode_query(text: str, schema: Any) -> Any:
    """Decodes a query string; unknown fields are dropped, a repeated one is refused."""
    if schema is None or not text:
        return None if schema is None else schema()
    try:
        pairs = parse_qsl(
            text, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS
        )
    except (ValueError, UnicodeDecodeError):
        raise BadRequest(f"the query {shown(text)} cannot be read", field="query") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise BadRequest("a field of the query is given twice", field="query")
    try:
        return msgspec.convert(fields, schema, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(f"query: {error}", field="query") from None


def decode_body(data: bytes, schema: Any) -> Any:
    """Decodes a request body; a route without a body takes none or an empty object."""
    if schema is None:
        if data and decode(data, dict[str, Any]):
            raise BadRequest("this route takes no body", field="body")
        return None
    return decode(data, schema)
