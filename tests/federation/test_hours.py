"""When a silo may begin to tune, by the clock on its wall."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedit_secure.config import load_policy
from fedit_secure.errors import ConfigError
from fedit_secure.federation.hours import Hours


def hours(start: str, until: str, zone: str = "Europe/Berlin") -> Hours:
    return Hours.model_validate({"from": start, "until": until, "zone": zone})


def at(text: str) -> float:
    """Seconds since 1970 of a moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NIGHT, DAY = hours("20:00", "06:00"), hours("09:30", "17:00")


@pytest.mark.parametrize(
    ("when", "now", "seconds"),
    [
        # In winter Berlin is an hour ahead of UTC, in summer two.
        (NIGHT, "2026-01-10 18:59:59", 1),
        (NIGHT, "2026-01-10 19:00:00", 0),
        (NIGHT, "2026-01-10 23:30:00", 0),  # past midnight there
        (NIGHT, "2026-01-11 04:59:59", 0),
        (NIGHT, "2026-01-11 05:00:00", 14 * 3600),
        (NIGHT, "2026-07-10 18:00:00", 0),
        (NIGHT, "2026-07-10 17:00:00", 3600),
        (DAY, "2026-01-10 08:30:00", 0),
        (DAY, "2026-01-10 15:59:59", 0),
        (DAY, "2026-01-10 16:00:00", 16.5 * 3600),
        (DAY, "2026-01-10 00:00:00", 8.5 * 3600),
        # The night that clocks go forward (at 01:00 UTC) is an hour shorter.
        (hours("03:30", "04:00"), "2026-03-29 00:00:00", 1.5 * 3600),
        (DAY, "2026-03-28 16:00:00", 15.5 * 3600),
        # The night that they go back is an hour longer.
        (DAY, "2026-10-24 15:00:00", 17.5 * 3600),
        (hours("20:00", "06:00", "UTC"), "2026-07-10 19:00:00", 3600),
        (hours("00:00", "06:00", "America/New_York"), "2026-07-10 03:59:00", 60),
        (hours("20:00", "00:00", "UTC"), "2026-07-10 23:59:59", 0),
        (hours("20:00", "00:00", "UTC"), "2026-07-10 00:00:00", 20 * 3600),
    ],
)
def test_seconds_until_they_begin(when: Hours, now: str, seconds: float) -> None:
    assert when.seconds_until(at(now)) == pytest.approx(seconds)


@pytest.mark.parametrize("now", ["2026-03-29 00:59:00", "2026-10-25 00:59:00"])
def test_whoever_asks_again_begins_also_where_clocks_change(now: str) -> None:
    """02:30 doesn't exist on one of these nights and comes twice on the other."""
    moment, small_hours = at(now), hours("02:30", "05:00")
    for _ in range(200):
        wait = small_hours.seconds_until(moment)
        if not wait:
            break
        moment += min(wait, 60)
    assert not wait
    assert moment <= at(now) + 3660


@given(st.integers(0, 2**31), st.integers(0, 1439), st.integers(0, 1439))
def test_they_have_begun_once_one_has_waited(now: int, start: int, until: int) -> None:
    if start == until:
        return
    texts = (f"{minutes // 60:02}:{minutes % 60:02}" for minutes in (start, until))
    when = hours(*texts, "UTC")
    wait = when.seconds_until(now)
    assert 0 <= wait < 86_400
    assert when.seconds_until(now + wait) == 0
    if wait > 1:
        assert when.seconds_until(now + wait - 1) == 1
    length = (until - start) % 1440 * 60
    assert (wait == 0) == ((now - start * 60) % 86_400 < length)


HEAD = "epsilon: 8\ndelta: 1e-6\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("hours:\n  from: 20:00\n  until: '06:00'\n  zone: UTC",
         r"line 4: the field 'hours\.from' must be a time in quotes, like \"20:00\""),
        ("hours:\n  from: '8:00'\n  until: '06:00'\n  zone: UTC",
         r"line 4: the field 'hours\.from' .*a time in quotes"),
        ("hours:\n  from: '20:00'\n  until: '24:00'\n  zone: UTC",
         r"line 5: the field 'hours\.until' .*a time in quotes"),
        ("hours:\n  from: '20:00'\n  until: '06:00'\n  zone: Europe/Berln",
         r"line 6: the field 'hours\.zone' must be a time zone that this machine knows"),
        ("hours:\n  from: '20:00'\n  until: '06:00'\n  zone: ../../etc/passwd",
         r"line 6: the field 'hours\.zone' must be a time zone"),
        ("hours: {from: '20:00', until: '06:00', zone: Europe}",
         r"line 3: the field 'hours\.zone' must be a time zone"),
        ("hours: {from: '20:00', until: '20:00', zone: UTC}",
         r"line 3: the field 'hours' from and until are the same"),
        ("hours: {from: '20:00', until: '06:00'}",
         r"line 3: the key 'hours\.zone' is missing"),
        ("hours: {form: '20:00', until: '06:00', zone: UTC}",
         r"line 3: the key 'hours\.form' is unknown; did you mean 'from'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, sentence) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(HEAD + text)
    with pytest.raises(ConfigError, match=sentence):
        load_policy(path)


def test_they_are_written_as_they_are_read(tmp_path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(HEAD + "hours: {from: '20:00', until: '06:00', zone: UTC}\n")
    policy = load_policy(path)
    assert policy.hours == hours("20:00", "06:00", "UTC")
    assert str(policy.hours) == "from 20:00 until 06:00 UTC"
    again = type(policy).model_validate(policy.model_dump(mode="json"))
    assert again == policy
