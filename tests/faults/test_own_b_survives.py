"""Aggregation "fedsa" where silos die, attempts are voided and rounds are missed.

Whatever happens, a silo ends with the B of the last round that it tuned: what was charged
for it is never charged twice for the same round, and it is the one of the update that it
sent.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import small_federation
from faults.crashing import (
    CountingLink,
    Dies,
    Door,
    Point,
    assert_answered_once,
    charges,
    ends_of,
    play,
)
from safetensors.numpy import load_file
from small_federation import LAYOUT, Killed, found

from fedit_secure.federation.update import GridState, to_float32
from fedit_secure.secagg import messages as m
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.silo.personal import Personal
from fedit_secure.wire import frames as f

A, B = LAYOUT[0][0], LAYOUT[1][0]
PATIENT = {"phase_deadline_seconds": 3.0, "silo_deadline_seconds": 6.0}


@pytest.fixture(autouse=True)
def _points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_federation, "FaultyLink", CountingLink)


def five(tmp_path: Path, rounds: int = 2, **schedule: float) -> Door:
    return Door(found(tmp_path, 5, rounds, aggregation="fedsa", **schedule))


def assert_own(door: Door, end: object, tuned: dict[str, int] | None = None) -> None:
    """Each silo has the global A, and the B of the last round that it tuned."""
    assert isinstance(end, GridState), end
    federation = door.federation
    (_, a_shape), (_, b_shape) = LAYOUT
    of_all = to_float32(end)[: np.prod(a_shape)].reshape(a_shape)
    for party in federation.silos:
        last = (tuned or {}).get(party.name, federation.charter.rounds)
        drawn = federation.own[party.name, last]
        assert len(drawn) == len(federation.updates[party.name, last])
        with open_journal(federation.root / party.name) as journal:
            personal = Personal.of(journal, federation.charter, party.name, "none")
            assert personal is not None
            whole = personal.whole(end)
        saved = load_file(personal.adapter / "adapter_model.safetensors")
        np.testing.assert_array_equal(saved[A], of_all)
        np.testing.assert_array_equal(saved[B], drawn[-1].reshape(b_shape))
        np.testing.assert_array_equal(whole, [*saved[A].flat, *saved[B].flat])
        # What no longer counts is gone.
        assert len(list(personal.folder.glob("*.safetensors"))) == 1


def assert_mean(door: Door, end: GridState, per_round: list[tuple[str, ...]]) -> None:
    """The global A moved by the means of what was sent, and its B by nothing."""
    federation = door.federation
    means = [federation.mean_of(n, list(who)) for n, who in enumerate(per_round, 1)]
    flat = to_float32(end)
    half = len(means[0])
    np.testing.assert_allclose(flat[:half], np.sum(means, axis=0), atol=1e-4)
    assert not flat[half:].any()


async def test_a_run_without_faults(tmp_path: Path) -> None:
    door = five(tmp_path)
    end = await play(door)
    assert_own(door, end)
    everybody = tuple(party.name for party in door.federation.silos)
    assert ends_of(door.federation, 1) == ends_of(door.federation, 2) == everybody
    assert isinstance(end, GridState)
    assert_mean(door, end, [everybody] * 2)
    owns = [door.federation.own[name, 2][-1] for name in everybody]
    assert not any(np.array_equal(owns[0], other) for other in owns[1:])


PLACES = {
    "in_the_masking_window": {"at_send": m.MaskedUpload},
    "before_the_round_is_closed_here": {"at_receive": m.RoundCertificate},
}


@pytest.mark.parametrize("at", PLACES)
async def test_a_silo_that_dies_goes_on_with_what_it_tuned(
    tmp_path: Path, at: str
) -> None:
    door = five(tmp_path, **PATIENT)
    point = {where: Point(what) for where, what in PLACES[at].items()}
    end = await play(door, [Dies("s2", **point)])
    assert_own(door, end)
    assert_answered_once(door, rounds=2)
    assert charges(door.federation, "s2") == 2
    # Nothing was tuned again: a B that was paid for isn't thrown away.
    assert len(door.federation.own["s2", 1]) == 1


async def test_a_silo_that_dies_charged_and_untuned_tunes_again(tmp_path: Path) -> None:
    """The charge stays, and the B is the one of the second draw."""
    door = five(tmp_path, rounds=1, **PATIENT)
    end = await play(door, [Dies("s2", at_receive=Point(f.HeadReceipt, 2))])
    assert_own(door, end)
    assert charges(door.federation, "s2") <= 2


async def test_a_voided_attempt_is_repeated_with_the_update_of_the_same_tuning(
    tmp_path: Path,
) -> None:
    door = five(tmp_path, rounds=1, **PATIENT)
    fail = [Dies(name, at_send=Point(m.MaskedUpload)) for name in ("s1", "s3")]
    end = await play(door, fail)
    assert "void" in door.phases()
    assert_own(door, end)
    assert all(len(drawn) == 1 for drawn in door.federation.own.values())
    assert isinstance(end, GridState)
    assert_mean(door, end, [ends_of(door.federation) or ()])


async def test_a_round_without_a_sum_leaves_each_silo_what_it_paid_for(
    tmp_path: Path,
) -> None:
    door = five(tmp_path, rounds=1)
    dies = {"back": "skipped"}
    fail = [Dies(n, at_send=Point(m.Reveal), **dies) for n in ("s1", "s3")]
    end = await play(door, fail)
    assert ends_of(door.federation) == ()
    assert_own(door, end)
    assert isinstance(end, GridState)
    assert end.digest() == door.federation.initial.digest()


async def test_a_silo_that_misses_a_round_keeps_its_b(tmp_path: Path) -> None:
    """It takes the A that the others made, and its own B of before."""
    door = five(tmp_path, rounds=2, tune_deadline_seconds=3.0)
    federation = door.federation
    s4, back = federation.silos[4], asyncio.Event()

    def dies(round: int, phase: str) -> None:
        if (round, phase) == (1, "applied"):
            raise Killed

    async def one_round() -> GridState:
        with pytest.raises(Killed):
            await federation.run_silo(s4, door.dial, on_event=dies)
        await back.wait()
        return await federation.run_silo(s4, door.dial)

    async def others() -> object:
        end = asyncio.create_task(play(door, absent=["s4"]))
        await door.comes_to("ended")
        back.set()
        return await end

    async with asyncio.timeout(60):
        last, end = await asyncio.gather(one_round(), others())
    assert isinstance(end, GridState)
    assert last.digest() == end.digest()
    assert ("s4", 2) not in federation.own
    assert ends_of(federation, 2) == ("s0", "s1", "s2", "s3")
    assert_own(door, end, {"s4": 1})
