from __future__ import annotations

import base64
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from taskforge.errors import ConfigurationError, Unauthorized
from taskforge.tokens import CACHE_SIZE, MAX_LIFETIME_SECONDS, Tokens, check_secret

SECRET = "5b0f6a1c9d3e47728a64c1f0e92b7d35"
TENANT = UUID("0193a000-0000-7000-8000-00000000000a")


class StoppedClock:
    def __init__(self) -> None:
        self.time = datetime(2030, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock()


@pytest.fixture
def tokens(clock: StoppedClock) -> Tokens:
    return Tokens(SECRET, clock=clock)


def signed(
    clock: StoppedClock, *, header: dict[str, Any] | None = None, secret: str = SECRET, **change: Any
) -> str:
    now = int(clock.now().timestamp())
    claims: dict[str, Any] = {
        "iss": "taskforge",
        "aud": "taskforge",
        "sub": "ada",
        "tenant": str(TENANT),
        "iat": now,
        "exp": now + 600,
        "jti": "one",
    }
    claims.update(change)
    claims = {name: value for name, value in claims.items() if value is not None}
    protected = {"alg": "HS256", "typ": "JWT", **(header or {})}
    return raw_token(json.dumps(claims), protected, secret)


def raw_token(payload: str, header: dict[str, Any], secret: str = SECRET) -> str:
    """Signed by hand, so that nothing in a library refuses to make the bad ones."""
    signing_input = f"{part(json.dumps(header).encode())}.{part(payload.encode())}"
    digest = "sha512" if header.get("alg") == "HS512" else "sha256"
    return f"{signing_input}.{part(hmac.digest(secret.encode(), signing_input.encode(), digest))}"


def part(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def test_a_token_carries_tenant_and_subject(tokens: Tokens) -> None:
    context = tokens.verify(tokens.make(tenant_id=TENANT, subject="ada"))
    assert (context.tenant_id, context.actor) == (TENANT, "ada")


def test_a_token_signed_elsewhere_with_the_same_claims_is_accepted(
    tokens: Tokens, clock: StoppedClock
) -> None:
    assert tokens.verify(signed(clock)).tenant_id == TENANT


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "other"},
        {"iss": None},
        {"aud": "other"},
        {"aud": ["taskforge"]},
        {"aud": None},
        {"sub": None},
        {"sub": ""},
        {"sub": "a\nb"},
        {"tenant": None},
        {"tenant": "default"},
        {"tenant": 5},
        {"exp": None},
        {"exp": "1893456600"},
        {"exp": 1893456600.5},
        {"exp": True},
        {"exp": 10**18},
        {"exp": -(10**30)},
        {"exp": 0},
        {"iat": None},
        {"iat": 10**12},
        {"jti": None},
        {"jti": "x" * 300},
    ],
)
def test_a_token_with_a_wrong_claim_is_refused(
    tokens: Tokens, clock: StoppedClock, change: dict[str, Any]
) -> None:
    with pytest.raises(Unauthorized):
        tokens.verify(signed(clock, **change))


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "at+jwt"},
        {"typ": None},
        {"alg": "HS512"},
        {"jku": "https://attacker.example/keys"},
        {"jwk": {"kty": "oct", "k": "AAAA"}},
        {"x5u": "https://attacker.example/keys"},
        {"crit": ["exp"]},
        {"zip": "DEF"},
    ],
)
def test_a_token_with_a_wrong_header_is_refused(
    tokens: Tokens, clock: StoppedClock, header: dict[str, Any]
) -> None:
    with pytest.raises(Unauthorized):
        tokens.verify(signed(clock, header=header))


@pytest.mark.parametrize(
    "mangle",
    [
        lambda token: "",
        lambda token: "x",
        lambda token: token.rsplit(".", 1)[0],
        lambda token: token.rsplit(".", 1)[0] + ".",
        lambda token: token + ".",
        lambda token: token + ".x",
        lambda token: token[:-2],
        lambda token: token + "é",
        lambda token: "\ud800" + token,
        lambda token: token * 40,
        lambda token: "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0." + token.split(".")[1] + ".",
        lambda token: "eyJhbGciOiJOb25FIiwidHlwIjoiSldUIn0." + token.split(".")[1] + ".",
        lambda token: json.dumps({"payload": token.split(".")[1]}),
    ],
)
def test_a_mangled_token_is_refused(tokens: Tokens, clock: StoppedClock, mangle: Any) -> None:
    with pytest.raises(Unauthorized):
        tokens.verify(mangle(signed(clock)))


def test_a_token_of_another_secret_is_refused(tokens: Tokens, clock: StoppedClock) -> None:
    with pytest.raises(Unauthorized):
        tokens.verify(signed(clock, secret=SECRET[::-1]))


def test_a_claim_given_twice_is_refused(tokens: Tokens, clock: StoppedClock) -> None:
    now = int(clock.now().timestamp())
    payload = (
        f'{{"iss":"taskforge","aud":"taskforge","sub":"ada","tenant":"{TENANT}","tenant":"{uuid4()}",'
        f'"iat":{now},"exp":{now + 60},"jti":"x"}}'
    )
    with pytest.raises(Unauthorized):
        tokens.verify(raw_token(payload, {"alg": "HS256", "typ": "JWT"}))


def test_every_refusal_reads_the_same(tokens: Tokens, clock: StoppedClock) -> None:
    said = set()
    for token in ("", "a.b.c", signed(clock, aud="other"), signed(clock, secret=SECRET[::-1])):
        with pytest.raises(Unauthorized) as refusal:
            tokens.verify(token)
        said.add((refusal.value.code, refusal.value.detail))
    assert len(said) == 1


def test_a_token_is_good_for_half_a_minute_past_its_end_and_not_longer(
    tokens: Tokens, clock: StoppedClock
) -> None:
    token = tokens.make(tenant_id=TENANT, subject="ada", lifetime_seconds=60)
    clock.time += timedelta(seconds=90)
    tokens.verify(token)
    clock.time += timedelta(seconds=1)
    with pytest.raises(Unauthorized):
        tokens.verify(token)


def test_a_remembered_token_ends_when_it_expires(tokens: Tokens, clock: StoppedClock) -> None:
    token = tokens.make(tenant_id=TENANT, subject="ada", lifetime_seconds=60)
    tokens.verify(token)
    clock.time += timedelta(seconds=91)
    with pytest.raises(Unauthorized):
        tokens.verify(token)


def test_the_memory_of_verified_tokens_is_bounded(
    clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskforge.tokens.CACHE_SIZE", 3)
    tokens = Tokens(SECRET, clock=clock)
    for number in range(10):
        tokens.verify(tokens.make(tenant_id=TENANT, subject=f"user-{number}"))
    assert len(tokens._known) == 3 < CACHE_SIZE


def test_a_token_is_not_made_for_longer_than_the_limit(tokens: Tokens) -> None:
    with pytest.raises(ConfigurationError):
        tokens.make(tenant_id=TENANT, subject="ada", lifetime_seconds=MAX_LIFETIME_SECONDS + 1)


@pytest.mark.parametrize("secret", [None, "", "short", "z" * 31])
def test_a_missing_or_short_secret_is_refused(secret: str | None) -> None:
    with pytest.raises(ConfigurationError):
        check_secret(secret, is_development=False)


def test_a_short_secret_of_ones_own_is_refused_in_development_too() -> None:
    with pytest.raises(ConfigurationError):
        check_secret("5b0f6a1c9d3e4772", is_development=True)


@pytest.mark.parametrize(
    "secret",
    [
        "your-super-secret-jwt-key",
        "your-super-secret-jwt-key-with-more-than-32-bytes",
        "changeme",
        "CHANGEME-CHANGEME-CHANGEME-CHANGEME",
        "secret",
        "0" * 64,
    ],
)
def test_a_placeholder_is_refused_outside_development_and_accepted_inside(secret: str) -> None:
    with pytest.raises(ConfigurationError):
        check_secret(secret, is_development=False)
    assert check_secret(secret, is_development=True) == secret.encode()


def test_derived_keys_differ_by_purpose_and_secret(tokens: Tokens) -> None:
    assert tokens.derive_key("cursor") != tokens.derive_key("other")
    assert tokens.derive_key("cursor") != Tokens(SECRET[::-1]).derive_key("cursor")
