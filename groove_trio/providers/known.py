"""The providers that there are: the built-in ones, and what an embedding program adds."""

from __future__ import annotations

from collections.abc import Iterable

from groove_trio.providers.base import Provider
from groove_trio.providers.command import CommandProvider
from groove_trio.providers.demo import DemoProvider


def known_providers(more: Iterable[Provider] = ()) -> dict[str, Provider]:
    """All providers by name; one of `more` takes the place of a built-in one of its name."""
    known: list[Provider] = [CommandProvider(), DemoProvider(), *more]
    return {each.name: each for each in known}
