"""Two processes that tune together do what one does, to the bit, or say why they can't."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ranked_cases import BLAMED, CASES, FAILURES, GONE, ROUNDS, SILENT, SUMS, alone

SCRIPT = Path(__file__).with_name("ranked_cases.py")
PATIENCE_SECONDS = 240.0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two processes that went through all cases: `found` by name, and `sentences`."""
    out = tmp_path_factory.mktemp("pair")
    path = [
        str(SCRIPT.parents[2]),
        str(SCRIPT.parent),
        os.environ.get("PYTHONPATH", ""),
    ]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "OMP_NUM_THREADS": "1",
    }
    with (out / "log").open("wb") as log:
        both = [
            subprocess.Popen(
                [sys.executable, SCRIPT, str(number), out / "meeting", out],
                env=environment,
                stderr=log,
            )
            for number in (0, 1)
        ]
        try:
            status = both[0].wait(PATIENCE_SECONDS)
        finally:
            for process in both:
                process.kill()
                process.wait()
    assert status == 0, (out / "log").read_text()
    return SimpleNamespace(
        found={name: np.load(out / f"{name}.npy") for name in ROUNDS | SUMS},
        sentences=json.loads((out / "sentences.json").read_text()),
    )


@pytest.mark.parametrize("name", ROUNDS)
def test_the_update_of_two_processes_is_that_of_one(pair, name: str) -> None:
    assert np.array_equal(pair.found[name], alone(ROUNDS[name]))


def test_attack_noise_once_per_process(pair) -> None:
    """Of an empty batch the update is noise alone: its variance is sigma's, not twice it."""
    plan, noise = ROUNDS["an empty batch"].plan, pair.found["an empty batch"]
    deviation = plan.noise_multiplier * plan.clip / plan.expected_batch
    assert noise.size > 3000
    # Five deviations of the estimate; twice the variance would be at 1.41.
    assert noise.std() == pytest.approx(deviation, rel=5 / np.sqrt(2 * noise.size))


def test_attack_neighbour_in_another_process(pair) -> None:
    """A record more moves others to another process; the sum moves by the clip at most."""
    clip = SUMS["everybody"].plan.clip
    distance = np.linalg.norm(pair.found["everybody"] - pair.found["all but one"])
    assert clip * (1 - 1e-3) <= distance <= clip * (1 + 1e-4)


def test_memory_that_runs_out_in_one_process_changes_the_sum_by_rounding(pair) -> None:
    expected = alone(SUMS["memory runs out in process 1"])
    found = pair.found["memory runs out in process 1"]
    assert not np.array_equal(found, expected)  # it did run out
    assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected)


SENTENCES = {
    "other records": "ConfigError: process 1 of the 2 that tune doesn't have the same "
    "records as process 0",
    "another base model": "ConfigError: process 1 of the 2 that tune doesn't compute the "
    "same gradients as process 0",
    "another adapter": "TuningFailed: process 1 of the 2 that tune doesn't have the "
    "adapter that it was given",
    "a record that doesn't fit": "TuningFailed: process 1 of the 2 that tune: a single "
    "record doesn't fit into memory",
    SILENT: "SilentRank: process 1 of the 2 that tune said nothing for 1 s",
    BLAMED: "TuningFailed: process 1 of the 2 that tune: it broke",
    GONE: "LostRank: process 1 of the 2 that tune ended early",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_a_failure_names_the_process(pair, name: str) -> None:
    assert pair.sentences[name].startswith(SENTENCES[name])


def test_no_other_case_failed(pair) -> None:
    assert pair.sentences.keys() == SENTENCES.keys()
    assert FAILURES.keys() < SENTENCES.keys()
    assert pair.found.keys() | FAILURES.keys() == CASES.keys()
