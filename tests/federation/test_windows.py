"""When charges were made, by a clock that only goes forward."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedit_secure.config import load_policy
from fedit_secure.errors import ConfigError, StorageError
from fedit_secure.federation.windows import ChargeTimes

DAY = 86_400


class Charged:
    """Stands in for a ledger: of it only the number of charges matters here."""

    def __init__(self, charges: int) -> None:
        self._charges = charges

    def intents(self) -> tuple[None, ...]:
        return (None,) * self._charges


def charge(times: ChargeTimes, now: float) -> ChargeTimes:
    return times.observed(now, Charged(len(times.charges))).charged()  # type: ignore[arg-type]


def test_charges_leave_a_window_as_days_pass() -> None:
    times = ChargeTimes()
    for day in (100, 100, 130, 189):
        times = charge(times, day * DAY)
    assert [times.within(days) for days in (1, 59, 60, 89, 90, 365)] == [
        1,
        1,
        2,
        2,
        4,
        4,
    ]
    later = times.observed(190 * DAY - 1, Charged(4))  # type: ignore[arg-type]
    assert later.within(90) == 4
    assert times.observed(190 * DAY, Charged(4)).within(90) == 2  # type: ignore[arg-type]
    assert times.observed(400 * DAY, Charged(4)).within(90) == 0  # type: ignore[arg-type]


@given(st.lists(st.integers(-(10**9), 10**10), min_size=1, max_size=20), st.data())
def test_attack_a_clock_set_back_makes_no_room(clock: list[int], data: st.DataObject):
    """Whatever the clock shows: a look at an earlier time never frees a charge, and one
    made at an earlier time is kept for as long as one made now."""
    times = ChargeTimes()
    for now in clock:
        times = charge(times, now)
    back = data.draw(st.integers(-(10**10), times.seen))
    looked = times.observed(back, Charged(len(clock)))  # type: ignore[arg-type]
    for days in (1, 90, 36_525):
        assert looked.within(days) >= times.within(days)
    assert charge(times, back).charges[-1] == times.seen
    assert ChargeTimes.from_bytes(times.to_bytes()) == times


def test_charges_without_a_time_count_as_of_now() -> None:
    restored = ChargeTimes().observed(500 * DAY, Charged(3))  # type: ignore[arg-type]
    assert restored.within(1) == 3
    older = charge(ChargeTimes(), 100 * DAY)
    mixed = older.observed(500 * DAY, Charged(3))  # type: ignore[arg-type]
    assert (mixed.within(90), mixed.within(401)) == (2, 3)


def test_more_times_than_charges_are_no_ledger_of_ours() -> None:
    times = charge(charge(ChargeTimes(), 1), 2)
    with pytest.raises(StorageError, match="noted 2 charges, and its ledger has 1"):
        times.observed(3, Charged(1))  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="its ledger has 0"):
        times.observed(3, None)


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"{}",
        b"[]",
        b'{"charges":[2,1],"seen":3}',
        b'{"charges":[4],"seen":3}',
        b'{"charges":[1.0],"seen":3}',
        b'{"charges":[true],"seen":3}',
        b'{"charges":[1], "seen":3}',
        b'{"charges":["1"],"seen":3}',
        b'{"charges":1,"seen":3}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_note_is_refused(note: bytes) -> None:
    with pytest.raises(StorageError, match="the noted times of charges are damaged"):
        ChargeTimes.from_bytes(note)


HEAD = "epsilon: 8\ndelta: 1e-6\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (HEAD + "windows:\n  - days: 90\n    epsilon: 0\n",
         r"line 5: the field 'windows\.0\.epsilon' .*greater than 0"),
        (HEAD + "windows:\n  - {days: 90, epsilon: 4}\n  - {days: 0.5, epsilon: 4}\n",
         r"line 5: the field 'windows\.1\.days'"),
        (HEAD + "windows:\n  - {days: 90, epsilon: 4}\n  - {dais: 90, epsilon: 4}\n",
         r"line 5: the key 'windows\.1\.dais' is unknown; did you mean 'days'"),
        (HEAD + "windows: [{days: 9, epsilon: 4}, {days: 9, epsilon: 2}]\n",
         r"line 3: the field 'windows' names the window of 9 days twice"),
        (HEAD + "epsilon_per_run: -1\n", r"line 3: the field 'epsilon_per_run'"),
        ("allow_without_dp: true\nwindows: [{days: 9, epsilon: 4}]\n",
         r"windows need epsilon and delta"),
        ("allow_without_dp: true\nepsilon_per_run: 4\n",
         r"epsilon_per_run and windows need epsilon and delta"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, sentence) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        load_policy(path)
