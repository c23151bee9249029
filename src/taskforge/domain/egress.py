"""Where requests of ours may go: the public internet, and what the operator has allowed by name."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from msgspec import Struct

from taskforge.domain.webhooks import Address

Ip = IPv4Address | IPv6Address

# The special-purpose registries of IANA, and one address of a cloud that serves metadata in public space.
_CLOSED_V4 = tuple(
    IPv4Network(net)
    for net in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24",
        "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
    )
)  # fmt: skip
# Of IPv6 only global unicast is open, without what embeds or tunnels to other addresses.
_OPEN_V6 = IPv6Network("2000::/3")
_CLOSED_V6 = tuple(IPv6Network(net) for net in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
_CLOSED_NAMES = ("localhost", "local", "internal", "home.arpa", "onion", "invalid", "test")


class EgressPolicy(Struct, frozen=True):
    """What is in `networks` or `hosts` is reached whatever it is, on every port and without TLS too."""

    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    hosts: frozenset[str] = frozenset()
    ports: frozenset[int] = frozenset({80, 443})
    allows_http: bool = False


STRICT = EgressPolicy()


def policy(allow: Sequence[str], *, ports: Sequence[str], allows_http: bool) -> EgressPolicy:
    """From settings: `allow` lists addresses, networks and host names. Raises ValueError naming what is none."""
    networks: list[IPv4Network | IPv6Network] = []
    hosts: set[str] = set()
    for entry in allow:
        try:
            networks.append(ip_network(entry, strict=False))
        except ValueError:
            if "/" in entry or ":" in entry or not entry.isascii():
                raise ValueError(f"{entry!r} is no network, address or host name") from None
            hosts.add(entry.lower().rstrip("."))
    numbers = frozenset(int(port) for port in ports if port.isdigit() and 0 < int(port) < 65_536)
    if len(numbers) != len(set(ports)):
        raise ValueError("a port is a number from 1 to 65535")
    return EgressPolicy(tuple(networks), frozenset(hosts), numbers, allows_http)


def literal(address: Address) -> Ip | None:
    """The address that the URL itself names; None for a host name. Raises ValueError for one that is malformed."""
    if ":" in address.host or address.host.replace(".", "").isdigit():
        return ip_address(address.host)
    return None


def is_trusted_host(address: Address, rules: EgressPolicy) -> bool:
    return address.host in rules.hosts


def why_not_address(ip: Ip, rules: EgressPolicy) -> str | None:
    """Why nothing may connect there, or None. Addresses that stand for others are judged by what they stand for."""
    if any(ip in network for network in rules.networks if network.version == ip.version):
        return None
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        return "is an IPv4 address in disguise"
    if isinstance(ip, IPv4Address):
        return "is not a public address" if any(ip in net for net in _CLOSED_V4) else None
    if ip not in _OPEN_V6 or any(ip in net for net in _CLOSED_V6) or ip.scope_id is not None:
        return "is not a public address"
    return None


def why_not_request(address: Address, rules: EgressPolicy) -> str | None:
    """Why a URL is refused before anybody resolves its name, or None."""
    if is_trusted_host(address, rules):
        return None
    try:
        ip = literal(address)
    except ValueError:
        return "has a host that is no address"
    if ip is not None:
        if any(ip in network for network in rules.networks if network.version == ip.version):
            return None
        if (why := why_not_address(ip, rules)) is not None:
            return f"has a host that {why}"
    elif "." not in address.host or any(
        address.host == name or address.host.endswith(f".{name}") for name in _CLOSED_NAMES
    ):
        return "has a host name that is not public"
    return None


def why_not_channel(address: Address, rules: EgressPolicy, ips: Sequence[Ip]) -> str | None:
    """Why not over this scheme and port, or None, for a host that has these addresses."""
    is_allowed = is_trusted_host(address, rules) or (
        bool(ips) and all(any(ip in net for net in rules.networks if net.version == ip.version) for ip in ips)
    )
    if is_allowed:
        return None
    if address.scheme == "http" and not rules.allows_http:
        return "must be https"
    if address.port not in rules.ports:
        return f"names port {address.port}, which is not open"
    return None
