"""Which addresses outside may be asked: the table of those that may not."""

import socket
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from urllib3.util import parse_url

from modelreg.errors import Forbidden, Invalid
from modelreg.outside_urls import Rules, follow, parse, require_addresses
from support import canary

STRICT = Rules()
LOOSE = Rules(http=True, private_addresses=True)

PRIVATE = [
    "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "::1", "fc00::1",
    "fd12:3456::1", "64:ff9b::a00:1", "64:ff9b::7f00:1",
]  # fmt: skip
NEVER = [
    "169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "fd00:ec2::254", "fd20:ce::254", "fe80::1",
    "0.0.0.0", "0.1.2.3", "255.255.255.255", "224.0.0.1", "240.0.0.1", "192.0.2.1", "198.18.0.1", "192.0.0.8", "::", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:8.8.8.8", "::127.0.0.1", "2002:7f00:1::", "2002:a9fe:a9fe::1",
    "2001:0:7f00:1::", "64:ff9b:1::7f00:1", "64:ff9b::a9fe:a9fe", "2001:db8::1", "fec0::1",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::808:808"]


def in_url(address):
    return f"https://[{address}]/x" if ":" in address else f"https://{address}/x"


@pytest.mark.parametrize("address", [*PRIVATE, *NEVER])
def test_a_literal_address_that_is_not_public_is_not_asked(address):
    with pytest.raises(Forbidden, match="is not asked"):
        parse(in_url(address), STRICT)


@pytest.mark.parametrize("address", NEVER)
def test_metadata_link_local_and_disguised_addresses_are_not_asked_whatever_is_allowed(address):
    with pytest.raises(Forbidden, match="is not asked"):
        parse(in_url(address), LOOSE)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_asked_where_they_are_allowed(address):
    assert parse(in_url(address), LOOSE).literal is not None


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_asked(address):
    assert parse(in_url(address), STRICT).literal == ip_address(address)


@pytest.mark.parametrize("address", [*PRIVATE, *NEVER])
def test_a_name_with_one_address_that_is_not_public_is_not_asked(address):
    with pytest.raises(Forbidden, match=r"evil\.example, which is .* is not asked"):
        require_addresses("evil.example", [ip_address("8.8.8.8"), ip_address(address)], STRICT)


@pytest.mark.parametrize(
    "host",
    [
        "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "127.0.1", "0", "00.0.0.0", "127.0.0.01", "1.2.3.4.5",
        "256.1.1.1", "127.0.0.0x1", "example.0x7f", "example.123", "localhost.", "127.0.0.1.", "127。0。0。1", "１２７.0.0.1",
        "exa mple", "exa%6dple", "%31%32%37.0.0.1", "a..b", ".a", "-a", "a-", "a" * 64 + ".example", "[::1", "[::1%lo]",
        "[fe80::1%25eth0]", "[127.0.0.1]", "[v1.a]", "", "ｌocalhost", "loc\u00adalhost", "a\\b", "a\tb",
    ],
)  # fmt: skip
def test_a_host_that_programs_read_differently_is_none(host):
    with pytest.raises(Invalid):
        parse(f"https://{host}/x", LOOSE)


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hunter2-canary@hub.example/x", "https://hunter2-canary@hub.example/x", "https://hub.example@evil.example/x",
        "https://hub.example\\@evil.example/x", "https://hub.example#@evil.example/x", "https://hub.example/x#hunter2-canary",
        "https://hub.example:0/x", "https://hub.example:99999/x", "https://hub.example:80:443/x", "https:///x", "https:x",
        "//hub.example/x", "ftp://hub.example/x", "gopher://hub.example/x", "file:///etc/passwd", "HTTPS ://hub.example", "",
        "https://hub.example/a b", "https://hub.example/\n", "https://hub.example/\x7f", "https://hub.example/é",
        "https://hub.example/" + "a" * 5000, "javascript:alert(1)", "data:,x", "unix:/run/x", "https://[::1]x/",
    ],
)  # fmt: skip
def test_what_is_no_url_or_holds_credentials_is_refused_without_repeating_it(url):
    canary.plant("hunter2-canary")

    with pytest.raises(Invalid) as refused:
        parse(url, LOOSE)

    assert "hunter2" not in str(refused.value)


def test_plain_http_is_only_for_those_who_allow_it():
    with pytest.raises(Forbidden, match="--allow-http"):
        parse("http://hub.example/x", STRICT)

    assert parse("http://hub.example/x", Rules(http=True)).port == 80


def test_a_url_is_read_into_origin_and_path():
    target = parse("https://Hub.Example:8443/a/b?c=d", STRICT)

    assert (target.origin, target.netloc, target.path) == ("https://hub.example:8443", "hub.example:8443", "/a/b?c=d")
    assert target.shown == "https://hub.example:8443/a/b"
    assert parse("https://hub.example:443/", STRICT).origin == "https://hub.example"
    assert parse("https://[2606:4700::1111]/", STRICT).netloc == "[2606:4700::1111]"


@pytest.mark.parametrize(
    ("location", "error"),
    [
        ("http://hub.example/x", Forbidden), ("http://169.254.169.254/latest/meta-data", Forbidden),
        ("https://169.254.169.254/", Forbidden), ("//127.0.0.1/x", Forbidden), ("https://[::1]/x", Forbidden),
        ("https://2130706433/", Invalid), ("https://a:b@hub.example/", Invalid), ("file:///etc/passwd", Invalid),
        ("https://evil.example\\@hub.example/", Invalid), ("/" + "a" * 5000, Invalid),
    ],
)  # fmt: skip
def test_a_redirect_obeys_the_same_rules(location, error):
    with pytest.raises(error):
        follow(parse("https://hub.example/a/b", STRICT), location, STRICT)


def test_a_redirect_from_https_to_http_is_not_followed_even_where_http_is_allowed():
    with pytest.raises(Forbidden, match="redirects to plain http"):
        follow(parse("https://hub.example/a", LOOSE), "http://hub.example/a", LOOSE)


def test_a_redirect_may_be_relative():
    reached = follow(parse("https://hub.example/a/b?c", STRICT), "../d e", STRICT)

    assert (reached.origin, reached.path) == ("https://hub.example", "/d%20e")


_PIECES = st.sampled_from(
    ["https://", "http://", "//", "/", "\\", "@", ":", "#", "?", "[", "]", "%", ".", "..", "0x7f", "0177", "127", "1", "0", "2130706433",
     "::1", "::ffff:", "localhost", "a", "example", "xn--", "-", "_", "443", " ", "\t", "\n", "\u3002", "\uff0e", "\u00ad", "é", "&"]
)  # fmt: skip


@given(st.lists(_PIECES, max_size=8).map("".join), st.booleans())
@settings(max_examples=2000)
def test_whatever_is_taken_is_read_alike_by_other_programs(rest, with_scheme):
    """No host that libc takes for an IPv4 address in another spelling, none that urllib3 reads differently."""
    url = f"https://{rest}" if with_scheme else rest
    try:
        target = parse(url, LOOSE)
    except (Invalid, Forbidden):
        return
    theirs = parse_url(url)
    assert (theirs.scheme, (theirs.host or "").strip("[]"), theirs.auth) == (target.scheme, target.host, None)
    assert (theirs.port or {"https": 443, "http": 80}[target.scheme]) == target.port
    if target.literal is None:
        with pytest.raises(OSError):
            socket.inet_aton(target.host)


@given(st.text(max_size=40))
def test_any_location_is_followed_or_refused(location):
    start = parse("https://hub.example/a", STRICT)
    try:
        reached = follow(start, location, STRICT)
    except (Invalid, Forbidden):
        return
    assert reached.scheme == "https"


@given(st.integers(0, 2**32 - 1))
def test_no_address_is_public_that_the_library_knows_to_be_special(number):
    address = IPv4Address(number)
    if not address.is_global or address.is_multicast or address.is_link_local:
        with pytest.raises(Forbidden):
            require_addresses("x", [address], STRICT)
