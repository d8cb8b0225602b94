"""A silo's own B over whole daemons: its adapter, the next epoch, a file that is lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import operators as operators_module
import pytest
from operators import PLAN, Operators
from safetensors.numpy import load_file

from fedit_secure.errors import StorageError
from fedit_secure.silo import serve as silo_module
from fedit_secure.silo.jobs import tune_job

KEEPING = PLAN.replace("rank: 2,", "rank: 2, aggregation: fedsa,")
HALF = 2 * 352  # coordinates of A


def told(operators: Operators, capsys: pytest.CaptureFixture[str], *line: object):
    capsys.readouterr()
    operators.do(*line, "--format", "json")
    return json.loads(capsys.readouterr().out)


def own_b(adapter: str) -> np.ndarray:
    tensors = load_file(Path(adapter) / "adapter_model.safetensors")
    (key,) = (key for key in tensors if ".lora_B." in key)
    return tensors[key].reshape(-1)


async def test_it_goes_on_from_epoch_to_epoch_and_a_lost_one_needs_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(operators_module, "PLAN", KEEPING)
    operators = Operators(tmp_path / "federation", monkeypatch)
    begun: dict[tuple[str, int], np.ndarray] = {}

    def watched(config, charter, round, *rest):
        job = tune_job(config, charter, round, *rest)
        if round == 1:
            start = load_file(job.state_path)["adapter"]
            begun[config.name, charter.epoch] = start[HALF:]
        return job

    monkeypatch.setattr(silo_module, "tune_job", watched)
    operators.host()
    operators.join("a", "b", "c")
    assert operators.draft(1, "abc", rounds=1) == 0
    first = operators.agree(1, "abc")
    before = told(operators, capsys, "silo", "personal", operators.config("a"))
    assert set(before.values()) == {None}
    await operators.run("abc")
    operators.audit(1)
    given = np.linspace(-1, 1, 960, dtype=np.float32)[HALF:]
    ends: dict[str, np.ndarray] = {}
    for name in "abc":
        config = operators.config(name)
        np.testing.assert_allclose(begun[name, 1], given, atol=1e-6)
        facts = told(operators, capsys, "silo", "personal", config)
        assert (facts["own_b_epoch"], facts["own_b_round"]) == (1, 1)
        assert facts["own_b_is_whole"]
        status = told(operators, capsys, "silo", "status", config)
        assert status["adapter"] == facts["adapter"]
        ends[name] = own_b(facts["adapter"])
    assert len({end.tobytes() for end in ends.values()}) == 3

    # The second epoch goes on from it. One silo has lost its B, and another keeps a copy.
    start = f"initial_state: {operators.run_folder(first)}\n"
    assert operators.draft(2, "abc", rounds=1, more=start) == 0
    assert operators.agree(2, "abc").adapter.personal_since == 1
    (lost,) = (operators.root / "a/state/personal/north").glob("*.safetensors")
    copy = lost.rename(tmp_path / "copy.safetensors")
    end = await operators.silo("a")
    assert isinstance(end, StorageError)
    assert end.exit_status == 1
    assert str(end).startswith(
        f"{lost}, this silo's own B after round 1 of epoch 1, is "
    )
    facts = told(operators, capsys, "silo", "personal", operators.config("a"))
    assert (facts["own_b"], facts["own_b_is_whole"]) == (str(lost), False)
    doctor = ("doctor", operators.config("a"), "--offline", "--quick")
    operators.fedit(*doctor, "--format", "json")
    found = json.loads(capsys.readouterr().out)["findings"]
    seen = {row["check"]: (row["result"], row["found"]) for row in found}
    assert seen["own-b"] == ("FAIL", str(end))
    theirs = ("silo", "personal", operators.config("b"), "--restore", copy)
    assert operators.fedit(*theirs) == 4
    assert "it belongs to silo 'a'" in capsys.readouterr().err
    both = (*theirs, "--start-over")
    assert operators.fedit(*both) == 4
    operators.do("silo", "personal", operators.config("a"), "--restore", copy)
    operators.do("silo", "personal", operators.config("c"), "--start-over", "--yes")
    await operators.run("abc")
    operators.audit(2)
    for name in "ab":
        np.testing.assert_array_equal(begun[name, 2], ends[name])
    np.testing.assert_allclose(begun["c", 2], given, atol=1e-6)
