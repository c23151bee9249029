"""What a webhook's URL may look like, and where it may lead."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from taskforge.domain.egress import (
    STRICT,
    EgressPolicy,
    policy,
    why_not_address,
    why_not_channel,
    why_not_request,
)
from taskforge.domain.webhooks import Address, read_url

OPEN = policy(
    ["127.0.0.0/8", "10.1.2.3", "Hooks.Corp.internal", "fd00::/8"], ports=["443"], allows_http=False
)


def address(url: str) -> Address:
    found = read_url(url)
    assert isinstance(found, Address), found
    return found


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "unix:/run/s.sock", "HTTPS://example.com/",
        "//example.com/", "https:/example.com", "https://", "https:///x", "https://user@example.com/",
        "https://user:pw@example.com/", "https://example.com@127.0.0.1/", "https://example.com/#f",
        "https://exa mple.com/",
        "https://ex\u00e4mple.com/", "https://\uff11\uff12\uff17.0.0.1/", "https://example.com\\@127.0.0.1/",
        "https://example.com:0/", "https://example.com:65536/", "https://example.com:443x/", "https://2130706433/",
        "https://0x7f000001/", "https://0x7f.1/", "https://0177.0.0.1/", "https://127.1/", "https://127.0.0.01/",
        "https://1.2.3.4.5/", "https://example.com./", "https://.example.com/", "https://a..b/", "https://[::1%25eth0]/",
        "https://[::1", "https://example.com/\r\nX: y", "https://example.com/\x00", "https://x.com/" + "a" * 2_000,
    ],
)  # fmt: skip
def test_a_url_that_two_programs_might_read_differently_is_none(url: str) -> None:
    assert isinstance(read_url(url), str)


def test_a_url_is_read_into_where_to_connect_and_what_to_ask_for() -> None:
    assert address("https://Example.com?a=1") == Address("https", "example.com", 443, "/?a=1")
    assert address("http://[2600::1]:8080/x%20y").authority == "[2600::1]:8080"
    assert address("https://example.com").authority == "example.com"


@pytest.mark.parametrize(
    "ip",
    [
        "0.0.0.0", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "168.63.129.16",
        "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1",
        "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1",
        "2001::1", "2001:db8::1", "2002:7f00:1::", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1",
        "4000::1",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_closed(ip: str) -> None:
    assert why_not_address(ip_address(ip), STRICT) is not None


@pytest.mark.parametrize("ip", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2600::1", "2a00:1450::1"])
def test_a_public_address_is_open(ip: str) -> None:
    assert why_not_address(ip_address(ip), STRICT) is None


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "a.localhost",
        "metadata.google.internal",
        "printer.local",
        "intranet",
        "127.0.0.1",
        "[::1]",
    ],
)
def test_a_name_that_is_not_public_is_refused_before_anybody_resolves_it(host: str) -> None:
    assert why_not_request(address(f"https://{host}/"), STRICT) is not None


@pytest.mark.parametrize(
    "url", ["http://8.8.8.8/", "https://8.8.8.8:22/", "https://8.8.8.8:5432/", "http://a.com:80/"]
)
def test_only_tls_on_its_ports_is_open(url: str) -> None:
    assert why_not_channel(address(url), STRICT, [ip_address("8.8.8.8")]) is not None


def test_http_is_open_where_it_was_allowed() -> None:
    lax = EgressPolicy(allows_http=True)
    assert why_not_channel(address("http://a.com/"), lax, [ip_address("8.8.8.8")]) is None
    assert why_not_channel(address("http://a.com:8080/"), lax, [ip_address("8.8.8.8")]) is not None


def test_what_the_operator_allowed_is_open_on_every_port_and_nothing_beside_it() -> None:
    for url, ip in (
        ("http://127.0.0.1:9999/", "127.0.0.1"),
        ("http://10.1.2.3:1/", "10.1.2.3"),
        ("https://[fd00::1]:8443/", "fd00::1"),
    ):
        assert why_not_request(address(url), OPEN) is None
        assert why_not_address(ip_address(ip), OPEN) is None
        assert why_not_channel(address(url), OPEN, [ip_address(ip)]) is None
    assert why_not_request(address("http://hooks.corp.internal:1/"), OPEN) is None
    assert why_not_channel(address("http://hooks.corp.internal:1/"), OPEN, []) is None
    assert why_not_request(address("https://other.corp.internal/"), OPEN) is not None
    assert why_not_address(ip_address("10.1.2.4"), OPEN) is not None
    assert why_not_address(ip_address("::ffff:10.1.2.4"), OPEN) is not None


@pytest.mark.parametrize("allow", [["10.0.0.0/33"], ["http://a.com"], ["a/b"], ["ex\u00e4mple.com"]])
def test_what_cannot_be_allowed_is_named(allow: list[str]) -> None:
    with pytest.raises(ValueError, match="is no network"):
        policy(allow, ports=["443"], allows_http=False)
    with pytest.raises(ValueError, match="port"):
        policy([], ports=["https"], allows_http=False)
