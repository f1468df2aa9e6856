"""Where an upstream may lead this node, and what it may be told there.

An upstream says where its content is (redirects) and where its tokens come from (the realm of a
challenge). It may be hostile, or be replaced on its way to us, and this node is inside a network
that it is not. So there are two kinds of places:

    trusted    the upstream's own URLs and what is listed in `redirects` and `realms`: any address,
               the operator wrote it down
    public     anything else: https only, and only if the address that is dialled is a public one

It is the address itself that is judged, when the socket for it is made: what a name resolved to
before, or how an address was written, does not matter. Credentials go to the upstream's own URLs
and to listed realms; a token from a public realm is asked for without any.

Not here: which upstream is asked at all. That is a look-up in the configuration (`?ns=` is a key).
"""

import errno
import socket
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final

from yarl import URL

from oci_mesh.errors import UpstreamError, UpstreamRefused
from oci_mesh.upstream_config import Place, UpstreamConfig

# What `ipaddress` has for global (some versions of it), and is not for us to talk to.
_NEVER: Final = (
    ip_network("168.63.129.16/32"),  # Azure: the host of a virtual machine, with its metadata
    ip_network("192.0.0.0/24"),  # protocol assignments; Oracle's metadata were there
    ip_network("192.88.99.0/24"),  # relays to 6to4
)
_UNICAST: Final = IPv6Network("2000::/3")
_NAT64: Final = IPv6Network("64:ff9b::/96")

# As errno of the refusal, so that it can be told from a network that does not work.
REFUSED: Final = errno.EACCES


class Trust(Enum):
    """In a place that a URL leads to."""

    TRUSTED = "trusted"
    PUBLIC = "public"


class Guard:
    """Of one upstream."""

    def __init__(self, config: UpstreamConfig) -> None:
        self._name = config.name
        self._own = config.places
        self._redirects = config.redirect_places
        self._realms = config.realm_places
        self._has_credentials = config.has_credentials

    def trust(self, url: URL) -> Trust:
        """How a connection for `url` is made. Raises `UpstreamError` if none is."""
        place = place_of(url)
        if place in self._own or place in self._redirects or place in self._realms:
            return Trust.TRUSTED
        if place.scheme == "https":
            return Trust.PUBLIC
        raise UpstreamError(
            f"{self._name} leads to {place}, which is plain HTTP: nothing was sent there; "
            f"if it should be, list {place} in its redirects"
        )

    def target(self, url: URL, location: str) -> URL:
        """Where a redirect from `url` leads. Raises `UpstreamError` if that is nowhere to go."""
        target = _parse(self._name, location, url)
        self.trust(target)
        return target

    def realm(self, asked: Place, text: str) -> URL:
        """What the challenge of `asked` says; it may be shown the credentials that are configured.

        Raises `UpstreamRefused` if it is not to be used.
        """
        try:
            url = _parse(self._name, text)
            place = place_of(url)
        except UpstreamError as error:
            raise UpstreamRefused(str(error)) from None
        bound = place in self._own or place in self._realms
        if place.scheme == "http" and not (bound and asked.scheme == "http"):
            raise UpstreamRefused(
                f"{self._name} wants its tokens fetched from {place} in plain HTTP: refused"
            )
        if self._has_credentials and not bound:
            raise UpstreamRefused(
                f"{self._name} wants its credentials sent to {place}: refused; "
                f"if that is right, write realms = [{str(place)!r}] in its configuration"
            )
        return url


def place_of(url: URL) -> Place:
    """The place that a URL leads to. Raises `ValueError` if that is none of http(s)."""
    if url.scheme not in ("http", "https") or not url.raw_host or not url.port:
        raise ValueError("not an absolute http(s) URL")
    return Place(url.scheme, url.raw_host.lower(), url.port)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, not of a network we are in."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        inner = _inner(ip)
        if inner is None:
            return ip in _UNICAST and ip.is_global
        ip = inner
    return ip.is_global and not ip.is_multicast and all(ip not in net for net in _NEVER)


def _inner(ip: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that packets to `ip` may end at."""
    if ip in _NAT64:
        return IPv4Address(ip.packed[-4:])
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)


def public_socket(info: tuple[Any, ...]) -> socket.socket:
    """A socket for an `addrinfo` that is about to be dialled. `OSError` unless it is public."""
    family, kind, protocol, _, address = info
    if not is_public(address[0]):
        raise OSError(REFUSED, f"{address[0]} is not a public address")
    return socket.socket(family, kind, protocol)


def _parse(name: str, text: str, base: URL | None = None) -> URL:
    """A URL that a server sent, its bytes as they came: they may be signed."""
    try:
        if not (text.isascii() and text.isprintable()) or " " in text:
            raise ValueError("not the characters of a URL")
        try:
            relative = URL(text, encoded=True).with_fragment(None)
            url = relative if base is None else base.join(relative)
        except ValueError:
            raise ValueError("not the form of a URL") from None
        if relative.scheme and not relative.raw_host:
            raise ValueError("no host in it")
        if url.raw_user is not None or url.raw_password is not None:
            raise ValueError("a user in it")
        place_of(url)
    except ValueError as error:  # whose text is ours; that of the URL may be secret
        raise UpstreamError(
            f"{name} leads to what is not a URL of http or https: {error}"
        ) from None
    return url
