"""A silo's figures: kept over a restart, and the released one whole whatever the update is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from audit.parties import World, found, key_of

from fedit_secure.errors import ProtocolError
from fedit_secure.federation.evaluation import Evaluation
from fedit_secure.federation.readings import full_coordinate, reading_of
from fedit_secure.federation.update import GridState
from fedit_secure.secagg import states as s
from fedit_secure.secagg.messages import PublishedSum
from fedit_secure.silo.attempts import Attempts
from fedit_secure.silo.evaluations import FILE, Evaluated, Evaluations
from fedit_secure.silo.outbox import Outbox
from fedit_secure.tuning.job import OwnFigure

OWN = OwnFigure(nll=2.5, units=7, unscored=1)


@pytest.fixture(scope="module")
def world() -> World:
    """Four silos, of which all but s0 evaluate."""
    return found(evaluation=Evaluation(clip=10.0, noise_multiplier=4.0))


def a_sum(world: World, last: int) -> PublishedSum:
    total = np.zeros(world.charter.release_length, np.int32)
    total[-1] = last
    return PublishedSum(bytes(32), bytes(32), (0, 1, 3), total, 0, ())


def test_figures_are_kept_for_the_page_and_over_a_restart(
    world: World, tmp_path: Path
) -> None:
    kept = Evaluations(tmp_path, world.charter)
    assert kept.of(1) == Evaluated()
    kept.own(1, OWN)
    kept.published(1, a_sum(world, 1000))
    kept.own(2, OwnFigure(None, 0, 3))
    read = reading_of(world.charter, 1000, (0, 1, 3))
    assert read is not None
    assert read.silos == 2
    assert kept.of(1) == Evaluated(OWN, read)
    again = Evaluations(tmp_path, world.charter)
    assert [again.of(round) for round in (1, 2, 3)] == [
        kept.of(1),
        Evaluated(own=OwnFigure(None, 0, 3)),
        Evaluated(),
    ]


def test_lines_of_another_charter_or_cut_off_by_a_crash_are_passed_over(
    world: World, tmp_path: Path
) -> None:
    Evaluations(tmp_path, found(rounds=9).charter).own(1, OWN)
    path = tmp_path / FILE
    own = world.charter.digest().hex()
    with path.open("a") as file:
        file.write(json.dumps({"charter": own, "round": 1, "own": {"nll": 1}}) + "\n")
        file.write(f'{{"charter":"{own}","round":2,"federati')
    assert Evaluations(tmp_path, world.charter).of(1) == Evaluated()


def test_a_charter_without_an_evaluation_has_no_reading(tmp_path: Path) -> None:
    plain = found()
    kept = Evaluations(tmp_path, plain.charter)
    kept.published(1, a_sum(plain, 5))
    assert kept.of(1) == Evaluated()
    assert not (tmp_path / FILE).exists()


class Tuned:
    """Books in which an update is ready."""

    def __init__(self, update: np.ndarray, before: GridState) -> None:
        self._update, self._before = update, before

    def update(self, round: int) -> np.ndarray:
        return self._update

    def state(self) -> GridState:
        return self._before


def encoded(world: World, silo: int, update: np.ndarray) -> np.ndarray:
    me = s.Me(silo, key_of(f"s{silo}"))
    books = Tuned(update.astype(np.float32), world.initial)
    attempts = Attempts(
        world.charter,
        me,
        books,  # type: ignore[arg-type]
        Outbox(),
        lambda phase: None,
    )
    return attempts._encode(1).values


@pytest.mark.parametrize("times", [0.5, 1.0, 40.0])
def test_an_update_beyond_its_bound_is_scaled_without_the_figure(
    world: World, times: float
) -> None:
    params, full = world.charter.secagg_params(), full_coordinate(world.charter)
    update = np.linspace(-1, 1, world.charter.length) * params.bound * times
    for figure in (-3.0, 0.25, 4.5, 1e9):
        values = encoded(world, 1, np.append(update, figure))
        due = min(figure / full, 1.0) * params.magnitude
        assert values[-1] == pytest.approx(due, abs=2)
        peak = min(times, 1.0) * params.magnitude
        assert np.abs(values[:-1]).max() == pytest.approx(peak, abs=2)


def test_a_silo_that_isnt_evaluated_sends_zero_there_and_takes_no_figure(
    world: World,
) -> None:
    update = np.full(world.charter.length, 0.01)
    assert encoded(world, 0, update)[-1] == 0
    with pytest.raises(ProtocolError, match="25 coordinates, not 24"):
        encoded(world, 0, np.append(update, 1.0))
    with pytest.raises(ProtocolError, match="24 coordinates"):
        encoded(world, 1, update)
