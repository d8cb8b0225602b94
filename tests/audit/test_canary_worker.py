"""The silo's worker and its charge: the right order, and every way to get it wrong."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np
import pytest
from _broken_builds import broken, worker_of

from fedit_secure.audit.canary import attempts
from fedit_secure.audit.canary import detections as d
from fedit_secure.audit.canary.attempts import Attempts, watch_worker
from fedit_secure.audit.canary.build import synthetic_records
from fedit_secure.audit.canary.trials import STEPS
from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.errors import TuningFailed
from fedit_secure.silo import tuner

# As `worker`, without a model: it notes when it is told to sample, and has an update.
STAND_IN = """
import hashlib, json, os, sys, time
def say(**fields): print(json.dumps(fields), flush=True)
job = json.loads(sys.stdin.readline())
length = sum(a * b for _, (a, b) in job["layout"])
say(phase="ready")
assert sys.stdin.readline() == "sample\\n"
with open(sys.argv[1], "w") as note: note.write(str(time.monotonic_ns()))
for step in range(STEPS): say(phase="tuning", step=step + 1, of=STEPS)
data = os.urandom(2 * length).hex().encode()[: 4 * length]
say(phase="done", length=length, sha256=hashlib.sha256(data).hexdigest())
os.write(1, data)
""".replace("STEPS", str(STEPS))


def watch(tmp_path, worker=("-c", STAND_IN)) -> Attempts:
    tmp_path.mkdir(exist_ok=True)
    records = synthetic_records(0)[:20]
    return asyncio.run(
        watch_worker(tuner.tune_in_child, base_model_path(), records, tmp_path, worker)
    )


@pytest.mark.timeout(600)
def test_a_real_worker_that_is_broken_is_seen_from_inside(tmp_path) -> None:
    """The right one is tried, whole, by the command's own test."""
    builds = ("intent-missing-in-the-worker", "noise-reused-in-attempts")
    with broken(builds[0]), broken(builds[1]):
        found = watch(tmp_path, worker_of(*builds))
    assert found.intent.flags
    assert found.intent.figures["seconds_from_charge_to_sampling"] < 0
    assert found.counts == {"told_by_the_worker": STEPS, "in_its_charge": STEPS}
    assert np.array_equal(*found.updates)
    assert d.noise_reuse([(found.updates, found.updates.shape[1])]).flags


@pytest.mark.parametrize(
    ("build", "figure", "value"),
    [
        ("intent-missing-in-the-silo", "charge_on_disk", "yes"),
        ("refusal-ignored", "refusal_held", "no"),
    ],
)
def test_a_silo_that_says_sample_too_early_is_noticed(
    tmp_path, monkeypatch, build, figure, value
) -> None:
    monkeypatch.setattr(attempts, "HOLD_SECONDS", 0.5)
    assert not watch(tmp_path / "right").intent.flags
    with broken(build):
        found = watch(tmp_path / "broken").intent
    assert found.flags
    assert found.figures[figure] == value


def test_a_silo_that_never_asks_for_the_charge_is_noticed(tmp_path) -> None:
    async def tune(job, on_phase=None, *, before_sampling, worker):
        return await tuner.tune_in_child(job, on_phase, worker=worker)

    found = asyncio.run(
        watch_worker(
            tune,
            base_model_path(),
            synthetic_records(0)[:20],
            tmp_path,
            ("-c", STAND_IN),
        )
    )
    assert found.intent.flags
    assert found.intent.figures["charges_asked"] == 0
    assert found.counts["in_its_charge"] == 0


def test_a_worker_that_cannot_tune_is_an_error_and_no_verdict(tmp_path) -> None:
    with pytest.raises(TuningFailed, match="ended early with status 3"):
        watch(tmp_path, ("-c", "import sys; sys.exit(3)"))


def test_the_worker_without_work_imports_no_torch() -> None:
    import subprocess

    code = (
        "import sys, fedit_secure.audit.canary.idle_worker\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_worker_that_is_ended_while_it_notes_the_word_has_heard_it(tmp_path) -> None:
    async def tell_and_end(_, *, before_sampling, worker):
        await asyncio.to_thread(Path(worker[-1]).touch)
        await before_sampling()

    held = attempts._refusal_holds(tell_and_end, None, tmp_path / "refused")
    assert asyncio.run(held) is False
