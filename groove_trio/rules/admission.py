"""Who is let in: the bind addresses that are allowed, and the requests that may reach a route.

Two questions, both answered by an allow-list, because a deny-list of "bad" addresses or origins
is one spelling short for ever (``0``, ``0x0``, ``::ffff:0.0.0.0``, a name that resolves to any
of them).

*Where may the daemon listen?* On loopback and nowhere else. The rule sees resolved addresses,
never the spelling, and is asked twice: before binding about what a name resolves to, and after
binding about what the socket says of itself.

*Which requests are this daemon's own?* A web page of any site may send requests to loopback, and
a site may make its own name resolve to loopback (DNS rebinding). What the page cannot do is lie
about three header fields that browsers write themselves:

- ``Host`` must be an address the daemon is bound to, port included: a rebound name is not. The
  name ``localhost`` is one only where 127.0.0.1 and ``::1`` are both bound. Where one of them is
  not, any program may listen there, show the owner a page as ``http://localhost``, and leave: the
  browser then falls back to the other address, and the page's next request is same-origin.
- ``Origin``, where there is one, must be that very address, as ``Host`` spells it. The daemon's
  other name is another origin to a browser. ``null`` (a sandboxed frame, a file, a redirect) is
  foreign.
- ``Sec-Fetch-Site``, where there is one, must say ``same-origin`` or ``none`` (typed into the
  address bar). Another port of localhost is ``same-site``, and foreign.

No decision rests on the *absence* of a field alone: ``Host`` is required, and whatever is not a
safe method needs ``Content-Type: application/json`` even with an empty body, which a page cannot
send to another origin without a preflight, and no preflight is ever granted.

Fields that only a proxy or a framework would act on (forwarding, method override) are refused
rather than ignored: nothing that this daemon may talk to sends them, so one in a request means
that somebody believes in a proxy that is not there. Cookies are ignored: the daemon has none.

Cost: one pass over the fields, a set lookup for each; 2 to 4 µs for a browser's request.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address

from groove_trio.words.errors import (
    BadRequest,
    BindRefused,
    GrooveError,
    NotAdmitted,
    UnsupportedMediaType,
    shown,
)

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 31415  # as promised; the first digits of pi
FALLBACK_PORTS = range(31416, 31426)
"""Tried in order when the default port is taken and no other was asked for."""

LOOPBACK_4 = IPv4Network("127.0.0.0/8")  # RFC 1122, section 3.2.1.3
LOOPBACK_6 = IPv6Address("::1")  # RFC 4291, section 2.5.3

LOCALHOST = ("127.0.0.1", "::1")
"""What the name stands for, whatever a resolver says of it (RFC 6761, section 6.3)."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"})
"""Methods that change nothing here, the last two because no route has them."""

_CHARSETS = frozenset({b"", b"charset=utf-8", b'charset="utf-8"'})

_ONCE = frozenset({b"host", b"origin", b"sec-fetch-site", b"content-type"})

_OWN_SITES = frozenset({b"same-origin", b"none"})

_REFUSED = frozenset(
    {
        b"forwarded",
        b"x-real-ip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"true-client-ip",
        b"cf-connecting-ip",
        b"x-host",
        b"x-original-host",
        b"x-original-url",
        b"x-rewrite-url",
        b"x-http-method",
        b"x-http-method-override",
        b"x-method-override",
    }
)
_REFUSED_PREFIX = b"x-forwarded-"


def is_loopback(address: str) -> bool:
    """Whether a numeric address is in 127.0.0.0/8 or is ``::1``; a mapped address is not."""
    try:
        return IPv6Address(address) == LOOPBACK_6
    except AddressValueError:
        pass
    try:
        return IPv4Address(address) in LOOPBACK_4
    except AddressValueError:
        return False


def check_bind(host: str, addresses: Sequence[str]) -> None:
    """Refuses to listen on anything but this machine's loopback.

    Args:
        host: What was asked for, as it was spelled; only used in the message.
        addresses: Every address that `host` resolves to, numeric. All must be loopback: a name
            with one foot outside is refused as a whole.

    Raises:
        BindRefused: There is no address, or one that is not loopback.
    """
    if not addresses:
        raise BindRefused(
            f"{shown(host)} is not an address to listen on; use 127.0.0.1.", host=host
        )
    for address in addresses:
        if not is_loopback(address):
            meant = "" if address == host else f", which is {shown(address)}"
            raise BindRefused(
                f"{shown(host)}{meant}: the daemon only listens on this machine (127.0.0.1). "
                "To reach it from another one, use an SSH tunnel: ssh -L PORT:127.0.0.1:PORT.",
                host=host,
                address=address,
            )


class Admission:
    """The rule for requests that come in by the addresses a daemon is bound to.

    Args:
        binds: Address and port of every listening socket, such as ``[("127.0.0.1", 31415)]``.
            The name ``localhost`` is the daemon's own where 127.0.0.1 and ``::1`` are.
    """

    __slots__ = ("_hosts", "_told", "_urls")

    def __init__(self, binds: Iterable[tuple[str, int]]) -> None:
        bound = list(dict.fromkeys(binds))
        hosts = [f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name, port in bound]
        both = {port for _, port in bound if all((name, port) in bound for name in LOCALHOST)}
        hosts.extend(f"localhost:{port}" for port in sorted(both))
        self._hosts = frozenset(host.encode() for host in hosts)
        self._told = " or ".join(hosts)
        self._urls = [f"http://{host}" for host in hosts]

    def admit(
        self, method: str, target: str, headers: Iterable[tuple[bytes, bytes]]
    ) -> GrooveError | None:
        """Decides about one request, before any routing.

        Args:
            method: As sent.
            target: As sent; only the origin form (RFC 9112, section 3.2.1) and ``*`` pass.
            headers: Names in lower case.

        Returns:
            None when admitted, otherwise the refusal: `BadRequest`, `NotAdmitted` or
            `UnsupportedMediaType`. It is a value, so that whoever asks decides how to say it,
            if at all.
        """
        found: dict[bytes, bytes] = {}
        for name, value in headers:
            if name in _ONCE:
                if name in found:
                    return BadRequest(f"The header {name.decode()} came more than once.")
                found[name] = value
            elif name in _REFUSED or name.startswith(_REFUSED_PREFIX):
                return BadRequest(
                    f"The header {shown(name.decode('latin-1'))} is not taken: "
                    "no proxy stands before this daemon."
                )
        refusal = self._check_source(found)
        if refusal is not None:
            return refusal
        if not target.startswith("/") and not (target == "*" and method == "OPTIONS"):
            return BadRequest(f"The target {shown(target)} is not a path that begins with '/'.")
        if method not in SAFE_METHODS and not _is_json(found.get(b"content-type")):
            return _wrong_type(found.get(b"content-type"))
        return None

    def _check_source(self, found: dict[bytes, bytes]) -> GrooveError | None:
        host = found.get(b"host")
        if host is None:
            return BadRequest("The header Host is missing.")
        if host not in self._hosts:
            return NotAdmitted(
                f"The Host {_told(host)} is not this daemon's own, which is {self._told}; "
                f"use {self._url_instead(host)}."
            )
        origin = found.get(b"origin")
        if origin is not None and origin != b"http://" + host:
            return NotAdmitted(
                f"The Origin {_told(origin)} is not http:// and the Host {_told(host)}."
            )
        site = found.get(b"sec-fetch-site")
        if site is not None and site not in _OWN_SITES:
            return NotAdmitted(f"A page of another site ({_told(site)}) made this request.")
        return None

    def _url_instead(self, host: bytes) -> str:
        """The address to use; where there are several ports, the one that was asked for."""
        port = host.decode("latin-1").rpartition(":")[2]
        return next((url for url in self._urls if url.endswith(f":{port}")), self._urls[0])


def _is_json(kind: bytes | None) -> bool:
    if kind is None:
        return False
    if kind == b"application/json":
        return True
    essence, _, parameter = kind.lower().partition(b";")
    return essence.strip(b" \t") == b"application/json" and parameter.strip(b" \t") in _CHARSETS


def _wrong_type(kind: bytes | None) -> UnsupportedMediaType:
    was = "is missing" if kind is None else f"is {_told(kind)}"
    return UnsupportedMediaType(
        f"The Content-Type {was}; a request that changes state needs application/json, "
        "also without a body."
    )


def _told(value: bytes) -> str:
    return shown(value.decode("latin-1"))
