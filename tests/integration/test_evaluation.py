"""Evaluation through the secure sum: one figure that every party reads alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pytest

import fedit_secure
from fedit_secure.errors import ConfigError, PolicyRefusal
from fedit_secure.federation.evaluation import Reading
from fedit_secure.federation.policy import Policy
from fedit_secure.federation.update import to_float32
from fedit_secure.simulation.parties import found_federation
from fedit_secure.simulation.run import Tuner, run_plan
from fedit_secure.tuning.held_out import clipped_sum, score_units
from fedit_secure.tuning.job import DataSource, HeldOutSource

QUARTER = HeldOutSource(fraction=0.25)


@pytest.fixture
def sources(records: dict[str, Path]) -> dict[str, DataSource]:
    """All silos but west hold out a quarter of their records."""
    return {
        name: DataSource(path=str(path), held_out=None if name == "west" else QUARTER)
        for name, path in records.items()
    }


@pytest.fixture
def evaluating(plan: dict[str, Any]) -> dict[str, Any]:
    return plan | {"evaluation": {"clip": 8.0, "noise_multiplier": 6.0}}


def test_every_round_releases_one_figure_which_is_charged(
    sources: dict[str, DataSource], evaluating: dict[str, Any], tmp_path: Path
) -> None:
    run = fedit_secure.simulate(sources, evaluating, folder=tmp_path / "run")
    check_figures(run)
    check_ledgers(run)
    # The state after the run has the adapter's coordinates and no more.
    assert run.state.length == run.charter.length == run.charter.release_length - 1


def check_figures(run: fedit_secure.Simulation) -> None:
    """In metrics.jsonl and in what is returned, with the noise that is in them."""
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    said = [x for x in map(json.loads, lines) if x["phase"] == "evaluation"]
    assert [x["round"] for x in said] == [1, 2]
    assert run.readings == {
        x["round"]: Reading(x["nll"], x["deviation"], x["silos"]) for x in said
    }
    expected = [row.held_out for row in run.charter.roster if row.held_out]
    assert len(expected) == 3
    # Three silos of equal weight, each with noise of its own.
    bound = 4.0 * (1 + 1e-4)
    mean = np.sqrt(sum((6.0 * bound / n) ** 2 for n in expected)) / 3
    for reading in run.readings.values():
        assert reading.silos == 3
        assert reading.deviation == pytest.approx(mean)
        # The mean of what is between 0 and 8 by what the noise allows.
        assert -6 * mean <= reading.nll <= 8 + 6 * mean
    # A sum is about the adapter that its round began with: the last has none.
    told = {row.round: (row.summed_nll, row.summed_deviation) for row in run.rows}
    assert told == {
        **{r - 1: (x.nll, x.deviation) for r, x in run.readings.items()},
        2: (None, None),
    }
    table = run.table()
    assert "summed nll" in table
    assert f"{run.readings[1].nll:.4g}" in table


def check_ledgers(run: fedit_secure.Simulation) -> None:
    """Both mechanisms of each round, composed by dp-accounting from the entries alone."""
    for name, printed in run.epsilons.items():
        path = run.folder / "ledgers" / f"{name}.jsonl"
        entries = map(json.loads, path.read_bytes().splitlines())
        intents = [entry for entry in entries if entry["kind"] == "intent"]
        assert len(intents) == 2
        accountant = dp_accounting.pld.PLDAccountant(
            dp_accounting.NeighboringRelation.REPLACE_SPECIAL
        )
        for intent in intents:
            assert ("evaluation" in intent) == (name != "west")
            gaussian = dp_accounting.GaussianDpEvent(intent["noise_multiplier"])
            step = dp_accounting.PoissonSampledDpEvent(intent["sample_rate"], gaussian)
            accountant.compose(dp_accounting.SelfComposedDpEvent(step, intent["steps"]))
            if name != "west":
                assert intent["evaluation"]["noise_multiplier"] == 6.0
                accountant.compose(dp_accounting.GaussianDpEvent(6.0))
        assert printed >= accountant.get_epsilon(1e-3) - 1e-6
        assert printed <= 8.0
    noise = {row.name: row.dp.noise_multiplier for row in run.charter.roster}
    # The silo that isn't evaluated needs less noise for the same epsilon.
    assert noise["west"] < min(noise[n] for n in ("north", "south", "east"))


def test_without_noise_the_sum_says_the_clipped_mean(
    sources: dict[str, DataSource], evaluating: dict[str, Any], tmp_path: Path
) -> None:
    """A run without differential privacy shows that nothing else is in the figure."""
    sources["west"] = sources["west"].model_copy(update={"held_out": QUARTER})
    plain = evaluating | {
        "dp": {"kind": "none", "expected_batch": 20},
        "evaluation": {"clip": 8.0},
    }
    run = fedit_secure.simulate(sources, plain, folder=tmp_path / "run")
    federation = found_federation(tmp_path / "again", run_plan(plain), sources)
    tuner, means = Tuner(federation), []
    initial = to_float32(federation.initial)
    for row in run.charter.roster:
        plan = run.charter.plan_for(row.name).evaluation
        assert plan is not None
        tuner.examples(row.name)
        ready = tuner._prepare(row.name, 1, initial)
        nlls = score_units(ready, tuner._held_out[row.name])
        assert len(nlls) == plan.expected == row.held_out
        means.append(clipped_sum(nlls, plan) / plan.expected + plan.middle)
        assert means[-1] == pytest.approx(np.clip(nlls, 0, 8.0).mean())
    read = run.readings[1]
    assert read.deviation == 0
    step = 8.0 / run.charter.secagg_params().magnitude
    assert read.nll == pytest.approx(np.mean(means), abs=4 * step)


def test_a_policy_that_doesnt_allow_it_refuses(
    sources: dict[str, DataSource], evaluating: dict[str, Any], tmp_path: Path
) -> None:
    policy = Policy(epsilon=8.0, delta=1e-3, tell_record_count=True)
    federation = found_federation(
        tmp_path / "run", run_plan(evaluating), sources, policy=policy
    )
    from fedit_secure.federation.policy import check_terms

    with pytest.raises(PolicyRefusal, match="doesn't set allow_evaluation"):
        check_terms(federation.charter, "north", policy)
    check_terms(federation.charter, "west", policy)


def test_noise_that_leaves_nothing_for_the_tuning_is_refused_at_drafting(
    sources: dict[str, DataSource], evaluating: dict[str, Any], tmp_path: Path
) -> None:
    loud = evaluating | {"evaluation": {"noise_multiplier": 0.2}}
    with pytest.raises(ConfigError, match="leaves nothing of epsilon 8 for the tuning"):
        found_federation(tmp_path / "run", run_plan(loud), sources)
