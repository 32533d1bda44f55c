"""The pre-tool hook: one JSON document on standard input, one knock, one exit code.

An agent's command line runs this before each tool call and hands it a description of the call.
The hook passes that on to the daemon as it is, and tells the answer in the way such command
lines understand:

- exit 0 and the hook's own decision object on standard output: the daemon allowed it;
- exit 2 and a text on standard error: anything else, be it a denial or a fault.

Nothing of the input is said to a listener of another user, who may have taken the port of a daemon
that ended: the kernel is asked first whose it is, as the command line does (client/peer.py).

There is no third way out. Command lines take exit 2 as "do not run the tool", but any *other*
failure as "the hook is broken, go on"; hence a missing daemon, a slow one, one that talks
nonsense, an exception, a signal and a full disk must all end in 2. Exit 0 stands behind a single
statement that is reached only with an answer which says so twice over.

It runs once per tool call, so it is a plain script for ``python -I -S hook.py``: standard library
only, nothing of this package. It takes ``_socket`` rather than ``socket``, which spends 9 ms on
turning constants into enumerations, and loads ``json`` while the daemon is thinking.

Environment: ``GROOVE_URL`` and ``GROOVE_AGENT``, which every agent's processes have. The one
option, ``--deadline SECONDS``, bounds the whole run (3 s without it): command lines give a hook
a deadline of their own, and go on without it when that passes.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing takes as long to import as all the rest
if TYPE_CHECKING:
    from typing import Any

DEADLINE_S = 3.0
MAX_DEADLINE_S = 60.0
MAX_INPUT = 1_048_576  # bytes; what the daemon takes as a body
MAX_ANSWER = 262_144  # bytes, head included; an answer is a few hundred
MAX_TOLD = 4_000  # characters of a reason; it goes into a model's context
ALLOWED = 0
BLOCKED = 2
_NETLINK_SOCK_DIAG = 4  # sock_diag(7); groove_trio/wire/sockdiag.py tells more of these
_BY_FAMILY = 20
_TCP, _LISTEN = 6, 10
_QUESTION = 72  # bytes
_TOLD = 88  # bytes of an answer up to the inode
_NOBODY = (0, b"")
_WORD = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


class Fault(Exception):
    """Why no answer was got; the tool call is blocked."""


class Refusal(Exception):
    """The daemon's own no, in its words."""


def main(arguments: list[str]) -> int:
    """Runs the hook.

    Args:
        arguments: The command line without the program, such as ``["--deadline", "0.5"]``.

    Returns:
        The exit code. Does not raise.
    """
    try:
        _bound(_deadline(arguments))
        decision = _knock(_address(), _agent(), _read_input())
        _write(1, decision)
    except Refusal as refusal:
        _complain(str(refusal))
    except Fault as fault:
        _complain(f"groove-trio: {fault}; the call is blocked, because nobody could allow it.")
    except BaseException as error:  # noqa: BLE001 - whatever it is, the call must not go on
        _complain(f"groove-trio: the hook failed ({type(error).__name__}); the call is blocked.")
    else:
        return ALLOWED
    return BLOCKED


def _deadline(arguments: list[str]) -> float:
    match arguments:
        case []:
            return DEADLINE_S
        case ["--deadline", text]:
            try:
                seconds = float(text)
            except ValueError:
                seconds = 0.0
            if 0 < seconds <= MAX_DEADLINE_S:
                return seconds
            raise Fault(f"--deadline takes seconds above 0 and up to {MAX_DEADLINE_S:g}")
        case _:
            raise Fault("the hook takes no arguments but --deadline SECONDS")


def _bound(seconds: float) -> None:
    """Makes a deadline and every polite signal end the process with 2, whatever it is at."""
    import signal  # noqa: PLC0415 - after main's try, so that a failing import blocks too

    def end(number: int, _frame: object) -> None:
        why = "no answer in time" if number == signal.SIGALRM else f"signal {number}"
        _complain(f"groove-trio: the hook ended without an answer ({why}); the call is blocked.")
        os._exit(BLOCKED)

    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})  # a parent may have blocked it
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _address() -> tuple[str, int]:
    url = os.environ.get("GROOVE_URL", "")
    if not url:
        raise Fault("GROOVE_URL is not set, so this is no agent's process")
    scheme, _, rest = url.partition("://")
    host, _, port = rest.removesuffix("/").rpartition(":")
    number = int(port) if port.isascii() and port.isdecimal() and len(port) <= len("65535") else 0
    if scheme != "http" or not host or not 0 < number < 65536:  # noqa: PLR2004 - of TCP
        raise Fault(f"GROOVE_URL is not like http://127.0.0.1:31415: {url[:80]!a}")
    return host, number


def _agent() -> str:
    agent = os.environ.get("GROOVE_AGENT", "")
    if not agent or not _WORD.issuperset(agent):
        raise Fault(f"GROOVE_AGENT does not name an agent: {agent[:80]!a}")
    return agent


def _read_input() -> bytes:
    data = bytearray()
    while chunk := os.read(0, 65_536):
        data += chunk
        if len(data) > MAX_INPUT:
            raise Fault(f"the hook's input is larger than {MAX_INPUT} bytes")
    if not data.strip():
        raise Fault("the hook's input is empty")
    return bytes(data)


def _knock(address: tuple[str, int], agent: str, body: bytes) -> bytes:
    """Asks the daemon; returns the decision object to print."""
    host, port = address
    head = (
        f"POST /api/knock?agent={agent} HTTP/1.1\r\nHost: {host}:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    try:
        status, content = _exchange(host.strip("[]"), port, head.encode() + body)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise Fault(f"no daemon answers at {host}:{port} ({reason})") from None
    return _judge(status, content)


def _exchange(host: str, port: int, request: bytes) -> tuple[int, bytes]:
    from _socket import AF_INET, AF_INET6, SOCK_STREAM, inet_pton, socket  # noqa: PLC0415

    family = AF_INET6 if ":" in host else AF_INET
    # Numeric addresses only: resolving a name could ask a network, and the daemon gives numbers.
    inet_pton(family, host)
    connection = socket(family, SOCK_STREAM)
    connection.connect((host, port))
    _check_listener(connection, family)
    try:  # noqa: SIM105 - contextlib is one more import
        connection.sendall(request)
    except (BrokenPipeError, ConnectionResetError):
        pass  # a refusal may have come before all was sent; it is worth reading
    __import__("json")  # loads while the daemon decides; `_judge` needs it

    answer = bytearray()
    while chunk := connection.recv(65_536):
        answer += chunk
        if len(answer) > MAX_ANSWER:
            raise Fault("the daemon's answer is too large")
    return _split(bytes(answer))


def _check_listener(connection: Any, family: int) -> None:
    """Makes sure that a program of this user's is at the other end, or raises a fault."""
    if not sys.platform.startswith("linux"):
        return  # other systems don't tell
    from _socket import AF_NETLINK, SOCK_CLOEXEC, SOCK_RAW, inet_pton, socket  # noqa: PLC0415

    names = (connection.getpeername(), connection.getsockname())
    there, here = [(port, inet_pton(family, address)) for address, port, *_ in names]
    kernel = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    try:
        # Whoever accepted; or whoever listens, before that; or it was accepted between the two.
        for other in (here, _NOBODY, here):
            uid = _user_of(kernel, family, there, other)
            if uid is not None:
                break
    finally:
        kernel.close()
    if uid != os.geteuid():
        who = "nobody that is known here" if uid is None else f"another user ({uid})"
        raise Fault(f"not your daemon listens there but {who}, who was told nothing")


def _user_of(
    kernel: Any, family: int, there: tuple[int, bytes], here: tuple[int, bytes]
) -> int | None:
    """The user of the socket with these ends, or of the one that listens at the first of them."""
    from _struct import pack, unpack_from  # noqa: PLC0415

    ends = pack("!HH16s16s", there[0], here[0], there[1], here[1])
    head = pack("=IHHIIBBxxI", _QUESTION, _BY_FAMILY, 1, 1, 0, family, _TCP, 0xFFFFFFFF)
    kernel.send(head + ends + bytes(4) + b"\xff" * 8)
    told = kernel.recv(8192)
    if len(told) < _TOLD or unpack_from("=H", told, 4) != (_BY_FAMILY,):
        return None
    listens = told[17] == _LISTEN
    uid: int
    uid, inode = unpack_from("=II", told, 80)
    # A socket that was closed, or not yet accepted, has inode 0 and seems to be root's. And where
    # no socket has both ends, the kernel tells of the one that listens.
    return uid if inode and listens == (here == _NOBODY) else None


def _split(answer: bytes) -> tuple[int, bytes]:
    """Takes an HTTP answer apart: its status and its whole body, or a fault."""
    head, end, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    code = rest[:3]
    if not end or version != b"HTTP/1.1" or not code.isdigit() or rest[3:4] not in (b" ", b""):
        raise Fault("what answers there is not the daemon, or it broke off")
    fields = [
        (name.strip().lower(), value.strip())
        for name, _, value in (line.partition(b":") for line in lines)
    ]
    lengths = [value for name, value in fields if name == b"content-length"]
    if lengths != [str(len(body)).encode()] or any(n == b"transfer-encoding" for n, _ in fields):
        raise Fault("the daemon's answer is not whole")
    return int(code), body


def _judge(status: int, content: bytes) -> bytes:
    """Turns an answer into the decision object to print; whatever is not a clear yes raises."""
    import json  # noqa: PLC0415

    try:
        answer: dict[str, Any] = json.loads(
            content.decode(), object_pairs_hook=_once, parse_constant=_refuse
        )
    except (ValueError, RecursionError):
        raise Fault("the daemon's answer is not JSON") from None
    if answer.__class__ is not dict:
        raise Fault("the daemon's answer is not an object")
    if status != 200:  # noqa: PLR2004 - OK
        raise Fault(f"the daemon refused the question with {status}: {_told(answer.get('detail'))}")
    decision: dict[str, Any] = answer.get("hookSpecificOutput", {})
    if answer.get("allow") is False:
        raise Refusal(_told(answer.get("reason")))
    if answer.get("allow") is not True or decision.__class__ is not dict:
        raise Fault("the daemon's answer does not say whether it allows the call")
    if decision.get("permissionDecision") != "allow":
        raise Fault("the daemon's answer contradicts itself")
    return json.dumps({"hookSpecificOutput": decision}).encode() + b"\n"


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _refuse(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _told(text: object) -> str:
    """A reason fit for a terminal and a model: no control characters, bounded."""
    if not isinstance(text, str) or not text.strip():
        return "no reason was given"
    cut = text[:MAX_TOLD]
    return "".join(each if each.isprintable() or each == "\n" else "\ufffd" for each in cut)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _complain(text: str) -> None:
    try:  # noqa: SIM105 - contextlib is one more import
        _write(2, text.encode("utf-8", "replace") + b"\n")
    except BaseException:  # noqa: BLE001, S110 - the exit code says it, heard or not
        pass


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # past the interpreter's own end, which has exit codes of its own
