"""Which addresses outside may be asked, decided before anything is sent. Pure: no name is resolved here.

A source names a host that somebody else chose, and answers with redirects that somebody else wrote. Without these rules an
import would be a way to ask the cloud's metadata service, or whatever listens on this machine, on behalf of a stranger.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote, urljoin, urlsplit

from modelreg.errors import Forbidden, Invalid

MAX_URL_CHARS = 4096
_PORTS = {"https": 443, "http": 80}
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_TEXT = re.compile(r"[\x21-\x7e]+", re.ASCII)

# What `--allow-private-address` opens: networks of one's own.
_OWN = tuple(
    map(
        ip_network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "100.64.0.0/10", "fc00::/7", "::1/128"),
    )
)
# Clouds answer with a machine's credentials here. Never asked, whatever is allowed; link-local ones are not in `_OWN` anyway.
_METADATA = frozenset(
    map(ip_address, ("169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254", "fd20:ce::254"))
)
# IPv6 spellings of IPv4 addresses; the first is what a resolver makes up on a network without IPv4.
_NAT64 = IPv6Network("64:ff9b::/96")
_UNICAST = IPv6Network("2000::/3")
_PROTOCOLS = IPv4Network("192.0.0.0/24")
_SPELLINGS = tuple(map(IPv6Network, ("::/96", "::ffff:0:0/96", "64:ff9b:1::/48", "2001::/32", "2002::/16")))


@dataclass(frozen=True)
class Rules:
    """What the user allows beyond https to public addresses."""

    http: bool = False
    private_addresses: bool = False


@dataclass(frozen=True)
class Target:
    """A URL that may be asked as far as its text tells. `host` is lower case, without brackets; `path` with the query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> str:
        """Scheme, host and port: whom a credential is for."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")

    @property
    def netloc(self) -> str:
        """What the Host header says."""
        return self.origin.partition("://")[2]

    @property
    def literal(self) -> IPv4Address | IPv6Address | None:
        """The host as an address, if it is one."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    @property
    def shown(self) -> str:
        """The URL for people and records: a query may hold a credential (a presigned URL), so it is left out."""
        return self.origin + self.path.partition("?")[0]


def parse(url: str, rules: Rules) -> Target:
    """Read a URL.

    Args:
        url: untrusted.

    Raises:
        Invalid: malformed, with credentials or a fragment, or a host that is written to look like something else.
        Forbidden: plain http, or a host that is an address which may not be asked.
    """
    if len(url) > MAX_URL_CHARS or not _TEXT.fullmatch(url) or "\\" in url:
        raise _invalid("is no URL of printable ASCII characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _invalid("is malformed") from None
    if parts.scheme not in _PORTS:
        raise _invalid("does not begin with https://")
    if "@" in parts.netloc:
        raise _invalid("holds credentials; a token is given by --token-file or MODELREG_SOURCE_TOKEN")
    if "#" in url:
        raise _invalid("has a fragment, which is never sent; leave it out")
    if parts.scheme == "http" and not rules.http:
        raise Forbidden("plain http is not used for a source: anybody on the way can change it; --allow-http allows it")
    host = _host(parts.netloc)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    target = Target(parts.scheme, host, _PORTS[parts.scheme] if port is None else port, path)
    if target.port == 0:
        raise _invalid("names port 0")
    if (literal := target.literal) is not None:
        require_addresses(host, [literal], rules)
    return target


def follow(target: Target, location: str, rules: Rules) -> Target:
    """Where a redirect leads; it has to obey the same rules, and never from https to http.

    Raises:
        Invalid, Forbidden: as `parse`.
    """
    if len(location) > MAX_URL_CHARS:
        raise _invalid("redirects to a URL that is too long")
    # A Location may be relative and may hold characters that must be escaped; those stay what they mean.
    reached = parse(urljoin(target.origin + target.path, quote(location, safe="!#$%&'()*+,/:;=?@[]~")), rules)
    if target.scheme == "https" and reached.scheme != "https":
        raise Forbidden(f"{target.shown} redirects to plain http, which is not followed")
    return reached


def require_addresses(host: str, addresses: Sequence[IPv4Address | IPv6Address], rules: Rules) -> None:
    """Go on only if every address of a host may be asked: one that may not is enough to doubt the name.

    Raises:
        Forbidden: which address, and what would allow it.
    """
    for address in addresses:
        kind = _kind(address)
        if kind == "public" or (kind == "private" and rules.private_addresses):
            continue
        more = "; --allow-private-address allows it" if kind == "private" else ""
        where = host if host == str(address) else f"{host}, which is {address},"
        raise Forbidden(f"{where} is a {kind} address and is not asked{more}", host=host, address=str(address))


def _kind(address: IPv4Address | IPv6Address) -> str:
    """`public`, `private` (a network of one's own), or what else it is."""
    if isinstance(address, IPv6Address) and address in _NAT64:
        address = IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _METADATA:
        return "metadata"
    if any(address.version == network.version and address in network for network in _OWN):
        return "private"
    if isinstance(address, IPv6Address) and any(address in network for network in _SPELLINGS):
        return "disguised IPv4"
    if address.is_link_local:
        return "link-local"
    # Which special networks the library knows goes by its version; these two it has called public.
    odd = address in _PROTOCOLS if isinstance(address, IPv4Address) else address not in _UNICAST
    if odd or address.is_multicast or address.is_unspecified or address.is_reserved or not address.is_global:
        return "reserved"
    return "public"


def _host(netloc: str) -> str:
    """The host, in the one spelling that every program reads alike.

    `2130706433`, `0x7f.1` and `0177.0.0.1` are 127.0.0.1 to some of them.
    """
    if netloc.startswith("["):
        text, _, after = netloc[1:].partition("]")
        try:
            return str(IPv6Address(text)) if "%" not in text and after[:1] in {"", ":"} else _refuse_host()
        except ValueError:
            return _refuse_host()
    host = netloc.partition(":")[0].lower()
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return _refuse_host()
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(host))  # four decimal numbers without leading zeros, and nothing else
        except ValueError:
            return _refuse_host()
    return host


def _refuse_host() -> str:
    raise _invalid("has no host as a name in ASCII, four decimal numbers, or an IPv6 address in brackets")


def _invalid(why: str) -> Invalid:
    return Invalid(f"the address {why}", field="source")  # without the address: it may hold a credential
