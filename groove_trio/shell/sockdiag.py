"""Asks the kernel whose a TCP socket is; one question and one answer take about 20 µs."""

from __future__ import annotations

import socket
import sys
from itertools import count

from groove_trio.wire.sockdiag import ANSWER_BYTES, NETLINK_SOCK_DIAG, End, Socket, answer, question
from groove_trio.words.errors import BadAnswer


class SockDiag:
    """A line to the kernel, opened when first needed and kept: it works without a free descriptor.

    An exact lookup is answered before the question's `send` returns, so nothing here waits.
    """

    def __init__(self) -> None:
        self._numbers = count(1)
        self._line: socket.socket | None = None

    def open(self) -> None:
        """Opens the line, so that a later question needs no descriptor.

        Raises:
            OSError: The kernel has no such line, or no descriptor is free.
        """
        if self._line is None:
            if not sys.platform.startswith("linux"):
                raise OSError("only Linux tells whose a socket is")
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self._line = socket.socket(socket.AF_NETLINK, kind, NETLINK_SOCK_DIAG)

    def close(self) -> None:
        """Closes the line; a later question opens another."""
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def ask(self, here: End, there: End) -> Socket | None:
        """The socket whose own end is `here` and whose other end is `there`, if there is one.

        Raises:
            BadAnswer: The kernel did not say; the line is opened anew for the next question.
        """
        number = next(self._numbers) & 0xFFFFFFFF
        try:
            self.open()
            assert self._line is not None
            self._line.send(question(here, there, number))
            return answer(self._line.recv(ANSWER_BYTES), here, there, number)
        except OSError as error:
            self.close()
            raise BadAnswer(f"the kernel can't be asked whose a socket is: {error}") from error
        except BadAnswer:
            self.close()
            raise


def end_of(address: str, port: int) -> End:
    """An address and port as the kernel is asked for them; a scope such as ``%lo`` is dropped.

    Raises:
        OSError: It is no numeric address.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_pton(family, address.partition("%")[0]), port
