"""Follow a daemon's events with the `websockets` package: any WebSocket client will do.

Usage: websocket_client.py URL [COUNT], such as http://127.0.0.1:31415; stops after COUNT events.
"""

from __future__ import annotations

import json
import sys

from websockets.sync.client import connect


def main(url: str, count: int) -> None:
    # A program that is no browser sends no Origin, and none is asked for; a page's must be ours.
    with connect(url.replace("http://", "ws://") + "/ws") as socket:
        for _, message in zip(range(count), socket, strict=False):
            envelope = json.loads(message)
            event = envelope["event"]
            if event["type"] == "snapshot":
                print(f"{envelope['seq']} snapshot of {len(event['agents'])} agents")
            else:
                print(f"{envelope['seq']} {event['type']}")
            # After a break, connect to /ws?after=<the last seq> and nothing is missed.


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else sys.maxsize)
