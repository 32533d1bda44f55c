"""Who is let in: bind addresses and requests."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groove_trio.rules.admission import Admission, check_bind, is_loopback
from groove_trio.words.errors import (
    BadRequest,
    BindRefused,
    GrooveError,
    NotAdmitted,
    UnsupportedMediaType,
)

PORT = 31415
OWN = Admission([("127.0.0.1", PORT)])
BOTH = Admission([("127.0.0.1", PORT), ("::1", PORT)])

Fields = list[tuple[bytes, bytes]]


def fields(*more: tuple[bytes, bytes], host: bytes = b"127.0.0.1:31415") -> Fields:
    return [(b"host", host), *more]


def ask(
    method: str = "GET", target: str = "/", headers: Fields | None = None
) -> GrooveError | None:
    return OWN.admit(method, target, fields() if headers is None else headers)


# Where to listen


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "127.255.0.9", "::1"])
def test_loopback_may_be_bound(address: str) -> None:
    check_bind(address, [address])


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "::",
        "::ffff:0.0.0.0",
        "::ffff:127.0.0.1",
        "::ffff:192.168.1.5",
        "::1%1",
        "192.168.1.5",
        "10.0.0.1",
        "100.64.0.1",
        "169.254.0.1",
        "fe80::1%eth0",
        "fd00::2",
        "128.0.0.1",
        "126.255.255.255",
        "::2",
        "224.0.0.1",
        "255.255.255.255",
        "",
        "*",
        "localhost",
        "127.0.0.1 ",
        "127.1",
        "0x7f000001",
    ],
)
def test_anything_else_is_refused(address: str) -> None:
    with pytest.raises(BindRefused):
        check_bind("somewhere", [address])


def test_a_name_with_one_foot_outside_is_refused() -> None:
    with pytest.raises(BindRefused) as caught:
        check_bind("both.example", ["127.0.0.1", "192.0.2.7"])
    assert caught.value.fields == {"host": "both.example", "address": "192.0.2.7"}


def test_no_address_at_all_is_refused() -> None:
    with pytest.raises(BindRefused, match=r"use 127\.0\.0\.1"):
        check_bind("", [])


def test_the_refusal_says_what_to_do_instead() -> None:
    with pytest.raises(BindRefused, match=r"only listens on this machine.*SSH tunnel"):
        check_bind("0.0.0.0", ["0.0.0.0"])


@given(st.ip_addresses())
def test_the_rule_agrees_with_the_two_networks(address: ipaddress.IPv4Address) -> None:
    expected = address in ipaddress.ip_network("127.0.0.0/8") or str(address) == "::1"
    assert is_loopback(str(address)) == expected


@given(st.text(max_size=40))
def test_no_text_upsets_the_rule(text: str) -> None:
    assert is_loopback(text) in {True, False}


# Host


@pytest.mark.parametrize("host", [b"127.0.0.1:31415", b"[::1]:31415", b"localhost:31415"])
def test_own_hosts_are_admitted(host: bytes) -> None:
    assert BOTH.admit("GET", "/", fields(host=host)) is None


@pytest.mark.parametrize(
    ("binds", "url"),
    [
        ([("127.0.0.1", 80)], "http://127.0.0.1:80"),
        ([("::1", 80)], "http://[::1]:80"),
        ([("127.0.0.1", 80), ("::1", 81)], "http://127.0.0.1:80"),
        ([("127.0.0.1", 81), ("::1", 80)], "http://[::1]:80"),
        ([("127.0.0.2", 80), ("::1", 80)], "http://127.0.0.2:80"),
    ],
)
def test_localhost_is_foreign_where_half_of_it_may_be_anybodys(
    binds: list[tuple[str, int]], url: str
) -> None:
    headers = fields((b"origin", b"http://localhost:80"), host=b"localhost:80")
    refusal = Admission(binds).admit("GET", "/", headers)
    assert type(refusal) is NotAdmitted
    assert f"use {url}" in refusal.detail


@pytest.mark.parametrize(
    "host",
    [
        b"127.0.0.1",
        b"localhost",
        b"localhost:31415",
        b"127.0.0.1:31416",
        b"127.0.0.1:031415",
        b"127.0.0.1:31415.",
        b"127.0.0.1:31415 ",
        b"localhost.:31415",
        b"LOCALHOST:31415",
        b"evil.example",
        b"evil.example:31415",
        b"localhost.evil.example:31415",
        b"127.0.0.1.evil.example:31415",
        b"evil@127.0.0.1:31415",
        b"127.0.0.1:31415,evil.example",
        b"127.0.0.2:31415",
        b"127.1:31415",
        b"0.0.0.0:31415",
        b"[::1]:31415",
        b"[::ffff:127.0.0.1]:31415",
        b"2130706433:31415",
        b"",
        b"\xff\xfe",
    ],
)
def test_foreign_hosts_are_not(host: bytes) -> None:
    assert type(ask(headers=fields(host=host))) is NotAdmitted


def test_a_missing_host_is_a_bad_request() -> None:
    assert type(ask(headers=[(b"accept", b"*/*")])) is BadRequest


@pytest.mark.parametrize("name", [b"host", b"origin", b"sec-fetch-site", b"content-type"])
def test_a_deciding_field_may_come_once_only(name: bytes) -> None:
    value = b"127.0.0.1:31415"
    assert type(ask(headers=[(name, value), (name, value), (b"host", value)])) is BadRequest


def test_the_bound_address_decides_which_hosts_are_own() -> None:
    six = Admission([("::1", 80)])
    assert six.admit("GET", "/", fields(host=b"[::1]:80")) is None
    assert type(six.admit("GET", "/", fields(host=b"127.0.0.1:80"))) is NotAdmitted
    other = Admission([("127.0.0.9", 80)])
    assert other.admit("GET", "/", fields(host=b"127.0.0.9:80")) is None
    assert type(other.admit("GET", "/", fields(host=b"localhost:80"))) is NotAdmitted


# Origin and Sec-Fetch-Site


OWN_NAMES = (b"127.0.0.1:31415", b"localhost:31415")


@pytest.mark.parametrize("host", OWN_NAMES)
def test_an_origin_that_is_the_host_is_admitted(host: bytes) -> None:
    headers = fields((b"origin", b"http://" + host), host=host)
    assert BOTH.admit("GET", "/", headers) is None


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize(("host", "other"), [OWN_NAMES, OWN_NAMES[::-1]])
def test_the_daemons_other_name_is_another_origin(host: bytes, other: bytes, method: str) -> None:
    json = (b"content-type", b"application/json")
    headers = fields((b"origin", b"http://" + other), json, host=host)
    assert type(BOTH.admit(method, "/", headers)) is NotAdmitted


@pytest.mark.parametrize(
    "origin",
    [
        b"null",
        b"",
        b"https://127.0.0.1:31415",
        b"http://127.0.0.1",
        b"http://127.0.0.1:3000",
        b"http://localhost:8080",
        b"http://127.0.0.1:31415/",
        b"http://127.0.0.1:31415.evil.example",
        b"http://evil.example",
        b"http://localhost.evil.example:31415",
        b"HTTP://127.0.0.1:31415",
        b"http://127.0.0.1:31415 http://evil.example",
        b"http://127.0.0.1:31415@evil.example",
        b"ws://127.0.0.1:31415",
        b"file://",
        b"chrome-extension://abcdefgh",
        b"http://[::1]:31415",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_foreign_origins_are_not(origin: bytes, method: str) -> None:
    json = (b"content-type", b"application/json")
    assert type(ask(method, headers=fields((b"origin", origin), json))) is NotAdmitted


@pytest.mark.parametrize("site", [b"same-origin", b"none"])
def test_own_pages_are_admitted(site: bytes) -> None:
    assert ask(headers=fields((b"sec-fetch-site", site))) is None


@pytest.mark.parametrize("site", [b"cross-site", b"same-site", b"", b"Same-Origin", b"what"])
def test_pages_of_other_sites_are_not(site: bytes) -> None:
    assert type(ask(headers=fields((b"sec-fetch-site", site)))) is NotAdmitted


# Content type


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "BREW", "post"])
def test_a_state_change_needs_a_json_content_type(method: str) -> None:
    assert type(ask(method)) is UnsupportedMediaType
    assert ask(method, headers=fields((b"content-type", b"application/json"))) is None


@pytest.mark.parametrize(
    "kind",
    [
        b"application/json;charset=utf-8",
        b"application/json; charset=UTF-8",
        b'Application/JSON; charset="utf-8"',
        b"application/json;",
    ],
)
def test_spellings_of_json_are_taken(kind: bytes) -> None:
    assert ask("POST", headers=fields((b"content-type", kind))) is None


@pytest.mark.parametrize(
    "kind",
    [
        b"",
        b"text/plain",
        b"text/plain; application/json",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data; boundary=application/json",
        b"application/json, text/plain",
        b"application/json; charset=utf-16",
        b"application / json",
        b"application/jsonp",
        b"application/json\x0b",
        b"text/json",
    ],
)
def test_other_content_types_are_not(kind: bytes) -> None:
    assert type(ask("POST", headers=fields((b"content-type", kind)))) is UnsupportedMediaType


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_safe_method_needs_no_content_type(method: str) -> None:
    assert ask(method) is None


# What a proxy or a framework would act on


@pytest.mark.parametrize(
    "name",
    [
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-anything",
        b"x-real-ip",
        b"x-http-method-override",
        b"x-http-method",
        b"x-method-override",
        b"x-original-url",
        b"x-rewrite-url",
    ],
)
def test_forwarding_and_override_fields_are_refused(name: bytes) -> None:
    assert type(ask(headers=fields((name, b"127.0.0.1")))) is BadRequest


def test_a_cookie_changes_nothing() -> None:
    assert ask(headers=fields((b"cookie", b"a=b"))) is None
    assert type(ask(headers=fields((b"cookie", b"a=b"), host=b"evil.example"))) is NotAdmitted


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.1:31415/", "http://user@127.0.0.1:31415/", "127.0.0.1:31415", "*", "", "x"],
)
def test_only_the_origin_form_of_a_target_passes(target: str) -> None:
    assert type(ask(target=target)) is BadRequest


def test_the_asterisk_is_for_options() -> None:
    assert ask("OPTIONS", "*") is None


@given(
    st.text(max_size=8),
    st.text(max_size=20),
    st.lists(
        st.tuples(
            st.sampled_from([b"origin", b"sec-fetch-site", b"content-type", b"forwarded", b"x"]),
            st.binary(max_size=30),
        ),
        max_size=6,
    ),
)
def test_without_an_own_host_nothing_is_admitted(method: str, target: str, headers: Fields) -> None:
    assert isinstance(ask(method, target, headers), GrooveError)
    assert isinstance(ask(method, target, [*headers, (b"host", b"evil.example")]), GrooveError)


def test_a_refusal_shows_a_bounded_value() -> None:
    refusal = ask(headers=fields(host=b"x" * 60_000))
    assert refusal is not None
    assert len(refusal.detail) < 300
