"""Signatures as the Standard Webhooks convention has them, and when a message is sent again."""

from __future__ import annotations

from random import Random

import pytest

from taskforge.domain import webhooks
from taskforge.domain.webhooks import is_signed, next_delay, secret_key, secret_text, sign

KEY = secret_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")


def test_a_signature_is_the_one_that_the_convention_gives_as_its_example() -> None:
    body = b'{"test": 2432232314}'
    signature = sign(KEY, message="msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp=1614265330, body=body)
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_one_good_signature_among_others_is_enough() -> None:
    other = bytes(32)
    good = sign(KEY, message="m", timestamp=1, body=b"x")
    for signatures, expected in (
        (good, True),
        (f"v1,AAAA v2,xyz {good}", True),
        ("v1,AAAA", False),
        (good.replace("v1,", "v2,"), False),
        ("", False),
        ("v1,\u00e4", False),
    ):
        assert is_signed([other, KEY], message="m", timestamp=1, body=b"x", signatures=signatures) == expected
    for changed in ({"message": "n"}, {"timestamp": 2}, {"body": b"y"}):
        given = {"message": "m", "timestamp": 1, "body": b"x", **changed}
        assert not is_signed([KEY], signatures=good, **given)  # type: ignore[arg-type]
    assert not is_signed([], message="m", timestamp=1, body=b"x", signatures=good)


@pytest.mark.parametrize("text", ["whsec_", "whsec_!!!!", "whsec_AAAA", "secret"])
def test_a_text_that_holds_no_key_is_no_secret(text: str) -> None:
    with pytest.raises(ValueError, match="webhook secret"):
        secret_key(text)
    assert secret_key(secret_text(KEY)) == KEY


def test_pauses_grow_fourfold_up_to_six_hours_with_half_of_each_by_chance() -> None:
    rng = Random(1)
    for attempts in range(1, webhooks.MAX_ATTEMPTS):
        full = min(6 * 3_600.0, 5.0 * 4.0 ** (attempts - 1))
        for _ in range(20):
            delay = next_delay(attempts, age_seconds=0, asked=None, rng=rng)
            assert delay is not None and full / 2 <= delay <= full


def test_a_message_is_given_up_after_72_hours_or_25_attempts() -> None:
    rng = Random(1)
    assert next_delay(1, age_seconds=72 * 3_600, asked=None, rng=rng) is None
    assert next_delay(25, age_seconds=0, asked=None, rng=rng) is None


def test_an_endpoint_may_ask_for_more_time_within_bounds() -> None:
    rng = Random(1)
    assert next_delay(1, age_seconds=0, asked=60, rng=rng) == 60
    assert next_delay(1, age_seconds=0, asked=10**9, rng=rng) == 6 * 3_600
