"""The WebSocket of events: who may have it, from which number on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import trio
from msgspec import Meta

from groove_trio.api.calls import decode_query
from groove_trio.api.routes import FEED_PATH, find
from groove_trio.shell.feed import feed_socket, run_feed
from groove_trio.wire.http import Upgrade
from groove_trio.words.actors import Actor
from groove_trio.words.base import Word
from groove_trio.words.errors import BadRequest, NotAllowed, shown

if TYPE_CHECKING:
    from groove_trio.verbs import Groove


class FeedQuery(Word):
    """Where to begin: after the number of the event seen last, or with a snapshot."""

    after: Annotated[int, Meta(ge=0, le=2**62)] | None = None


async def follow(
    groove: Groove, upgrade: Upgrade, stream: trio.abc.HalfCloseableStream, actor: Actor
) -> None:
    """Serves the feed until either side ends it.

    Raises:
        NoSuchRoute: Nothing is at this path.
        BadRequest: What is there does not speak WebSocket, or the query is wrong.
        NotAllowed: An agent asked; it would read what others wrote.
    """
    path, _, query = upgrade.request.target.partition("?")
    if path != FEED_PATH:
        find("GET", path)
        raise BadRequest(f"{shown(path)} does not speak WebSocket; {FEED_PATH} does")
    if actor.kind == "agent":
        refusal = NotAllowed("an agent may not follow the events of others")
        await groove.refused(actor, upgrade.request.method, path, refusal.detail)
        raise refusal
    after = decode_query(query, FeedQuery).after
    socket = feed_socket(upgrade)
    with groove.events(after) as subscription:
        await run_feed(stream, socket, subscription)
