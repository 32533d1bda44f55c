"""The kernel's word on one TCP socket: whose it is, in the messages of sock_diag(7).

`question` asks for exactly one socket by its two ends, `answer` reads what comes back over a
``NETLINK_SOCK_DIAG`` socket. An exact lookup goes through the kernel's own hash tables: it costs
the same with ten open sockets as with ten thousand, where ``/proc/net/tcp`` writes out all.

Two things of the kernel's are easy to fall for. If no connection has these ends, it answers with
the socket that *listens* at the first; `Socket.listening` says so, and only who asked for a
listener may take one. And a socket that its program has closed still answers for a while, with
user 0 and inode 0: nobody's, not root's.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from groove_trio.words.errors import BadAnswer

NETLINK_SOCK_DIAG = 4  # include/uapi/linux/netlink.h
ANSWER_BYTES = 8192  # NLMSG_GOODSIZE; an answer takes about 150

_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY, include/uapi/linux/sock_diag.h
_ERROR = 2  # NLMSG_ERROR
_REQUEST = 1  # NLM_F_REQUEST: without NLM_F_DUMP it is an exact lookup
_TCP = 6
_INET, _INET6 = 2, 10
_LISTEN = 10  # TCP_LISTEN, include/net/tcp_states.h
_ENOENT = 2
_ANY_STATE = 0xFFFFFFFF
_NO_COOKIE = b"\xff" * 8
_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291, section 2.5.5.2
_V4_BYTES = 4

_HEAD = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port id
_ASKED = struct.Struct("=BBxxI")  # inet_diag_req_v2 up to its id
_ENDS = struct.Struct("!HH16s16s")  # inet_diag_sockid: ports and addresses, in network order
_REST = struct.Struct("=I8s")  # its interface and cookie
_TOLD = struct.Struct("=BBxx")  # inet_diag_msg up to its id: family, state
_WHOSE = struct.Struct("=IIIII")  # after it: expires, two queues, uid, inode
_CODE = struct.Struct("=i")

_AT_ENDS = _HEAD.size + _TOLD.size
_AT_WHOSE = _AT_ENDS + _ENDS.size + _REST.size

End = tuple[bytes, int]
"""An address as `inet_pton` packs it, and a port."""

ANYONE: tuple[End, End] = ((bytes(4), 0), (bytes(16), 0))
"""The other end of a socket that listens, for IPv4 and for IPv6."""


class Socket(NamedTuple):
    """What the kernel knows of a socket. Inode 0: its program has closed it."""

    uid: int
    inode: int
    listening: bool


def question(here: End, there: End, sequence: int) -> bytes:
    """Asks for the socket whose own end is `here` and whose other end is `there`."""
    (source, sport), (target, dport) = _plain(here), _plain(there)
    family = _INET if len(source) == _V4_BYTES else _INET6
    body = (
        _ASKED.pack(family, _TCP, _ANY_STATE)
        + _ENDS.pack(sport, dport, source, target)
        + _REST.pack(0, _NO_COOKIE)
    )
    return _HEAD.pack(_HEAD.size + len(body), _BY_FAMILY, _REQUEST, sequence, 0) + body


def answer(data: bytes, here: End, there: End, sequence: int) -> Socket | None:
    """Reads the answer to `question`; None where there is no such socket.

    Raises:
        BadAnswer: The kernel could not say, or this is the answer to something else.
    """
    if len(data) < _HEAD.size + _CODE.size:
        raise BadAnswer("the kernel's answer about a socket is too short")
    _, kind, _, number, _ = _HEAD.unpack_from(data)
    if number != sequence:
        raise BadAnswer("the kernel's answer is about another socket")
    if kind == _ERROR:
        (code,) = _CODE.unpack_from(data, _HEAD.size)
        if code == -_ENOENT:
            return None
        raise BadAnswer(f"the kernel can't tell whose a socket is (error {-code})")
    if kind != _BY_FAMILY or len(data) < _AT_WHOSE + _WHOSE.size:
        raise BadAnswer("the kernel's answer about a socket can't be read")
    family, state = _TOLD.unpack_from(data, _HEAD.size)
    sport, dport, source, target = _ENDS.unpack_from(data, _AT_ENDS)
    width = _V4_BYTES if family == _INET else 16
    listening = state == _LISTEN
    told = (_plain((source[:width], sport)), _plain((target[:width], dport)))
    if not listening and told != (_plain(here), _plain(there)):
        raise BadAnswer("the kernel's answer is about another socket")
    *_, uid, inode = _WHOSE.unpack_from(data, _AT_WHOSE)
    return Socket(uid, inode, listening)


def _plain(end: End) -> End:
    """The end with an IPv4 address as such: an IPv6 socket that talks IPv4 has it mapped."""
    address, port = end
    if len(address) > _V4_BYTES and address.startswith(_MAPPED):
        return address[len(_MAPPED) :], port
    return end
