"""The typed client of a running daemon: anyio, so that it works under trio and under asyncio."""

from groove_trio.client.faults import problem_of
from groove_trio.client.find import find_project
from groove_trio.client.verbs import Client, connect_groove

__all__ = ["Client", "connect_groove", "find_project", "problem_of"]
