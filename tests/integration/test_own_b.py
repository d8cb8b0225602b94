"""Aggregation "fedsa": a whole federation in which each silo keeps a B of its own.

The silos answer the same questions in words of their own, so that one adapter for all
can't serve each.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import fedit_secure
from fedit_secure.cli.leakage_run import prepared
from fedit_secure.cli.main import main
from fedit_secure.config import load_silo_config
from fedit_secure.evaluation.score import score
from fedit_secure.federation.aggregation import places
from fedit_secure.federation.update import GridState, to_float32
from fedit_secure.tuning.base_model import load_base_model, load_tokenizer
from fedit_secure.tuning.examples import load_template
from fedit_secure.tuning.job import DataSource
from fedit_secure.tuning.kept_part import taken
from fedit_secure.tuning.records import load_records
from fedit_secure.tuning.saved_adapter import put_on, read_peft_adapter

WORDS = {"north": "mild fever", "south": "twice day", "east": "one dose"}
B = ".lora_B."


@pytest.fixture(scope="module")
def silos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One question, and a silo's own answer to it."""
    folder, found = tmp_path_factory.mktemp("data"), {}
    for name, answer in WORDS.items():
        row = {"instruction": "what is it", "response": answer, "category": "a"}
        found[name] = folder / f"{name}.jsonl"
        found[name].write_text((json.dumps(row) + "\n") * 20)
    return found


@pytest.fixture(scope="module")
def done(
    silos: dict[str, Path], tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> fedit_secure.Simulation:
    plan = {
        "base_model": str(tiny_base),
        "max_tokens": 64,
        "lora": {"rank": 2, "aggregation": "fedsa"},
        "tuning": {"learning_rate": 0.02, "local_steps": 12},
        "rounds": 2,
        "dp": {"kind": "none", "expected_batch": 20},
        "schedule": {"ready_slot_seconds": 0.1},
    }
    folder = tmp_path_factory.mktemp("run") / "federation"
    return fedit_secure.simulate(silos, plan, folder=folder)


def own(done: fedit_secure.Simulation, name: str) -> dict[str, np.ndarray]:
    return load_file(done.personal[name] / "adapter_model.safetensors")


def test_a_alone_is_sent(done: fedit_secure.Simulation) -> None:
    charter = done.charter
    layout = charter.adapter.layout
    sizes = {key: int(np.prod(shape)) for key, shape in layout}
    of_a = sum(size for key, size in sizes.items() if B not in key)
    assert charter.release_length == of_a < charter.length
    assert charter.secagg_params().payload_bytes == 3 * of_a + 8
    for round in ("001", "002"):
        total = done.folder / "rounds" / round / "sum.int32"
        assert total.stat().st_size == 4 * of_a


def test_the_global_state_moves_in_a_and_keeps_the_b_it_began_with(
    done: fedit_secure.Simulation,
) -> None:
    charter = done.charter
    path = done.folder / "states" / f"{charter.adapter.initial_digest}.state"
    began = to_float32(GridState.from_bytes(path.read_bytes()))
    for factor, moves in (("A", True), ("B", False)):
        parts = places(charter.adapter.layout, (factor,))
        moved = taken(done.adapter, parts) != taken(began, parts)
        assert moved.any() == moves
    assert not taken(done.adapter, parts).any()


def test_each_silos_adapter_is_the_global_a_and_a_b_that_nobody_else_has(
    done: fedit_secure.Simulation,
) -> None:
    of_all = load_file(done.folder / "adapter" / "adapter_model.safetensors")
    adapters = {name: own(done, name) for name in WORDS}
    for adapter in adapters.values():
        assert adapter.keys() == of_all.keys()
        for key, value in adapter.items():
            assert (B in key) or np.array_equal(value, of_all[key])
    for key in (key for key in of_all if B in key):
        values = [adapters[name][key] for name in WORDS]
        assert all(value.any() for value in values)
        assert not any(np.allclose(values[0], other) for other in values[1:])


def test_it_answers_its_own_silo_best(
    done: fedit_secure.Simulation, silos: dict[str, Path], tiny_base: Path
) -> None:
    """Better than the global B of zeros, which is the base model, and than the others'."""
    tokenizer = load_tokenizer(tiny_base)
    template = load_template("alpaca")
    nll: dict[tuple[str, str], float] = {}
    for adapter in ("global", *WORDS):
        where = done.personal.get(adapter, done.folder / "adapter")
        model = put_on(load_base_model(tiny_base), read_peft_adapter(where))
        for silo, path in silos.items():
            records = load_records(DataSource(path=str(path)))[:4]
            nll[adapter, silo] = score(model, tokenizer, records, template, 64).nll
    for silo in WORDS:
        others = [nll[name, silo] for name in ("global", *WORDS) if name != silo]
        assert nll[silo, silo] < min(others) - 0.05, nll


def test_peft_opens_it_and_it_merges(
    done: fedit_secure.Simulation,
    tiny_base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = done.personal["north"]
    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    opened = PeftModel.from_pretrained(base, folder).state_dict()
    for key, value in own(done, "north").items():
        named = key.replace(".weight", ".default.weight")
        np.testing.assert_array_equal(opened[named].numpy(), value)
    merged = tmp_path / "merged"
    assert main(["merge", str(folder), "-o", str(merged), "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["merged"] == str(merged)
    AutoModelForCausalLM.from_pretrained(merged)


def test_its_files_are_the_silos_alone(done: fedit_secure.Simulation) -> None:
    for folder in done.personal.values():
        home = folder.parents[2]
        assert home.name == "personal"
        assert home.stat().st_mode & 0o777 == 0o700
        files = [path for path in home.rglob("*") if path.is_file()]
        kept = [path for path in files if path.parent == folder.parents[1]]
        assert [path.name[:15] for path in kept] == ["epoch-1-round-2"]
        assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_an_auditor_needs_no_b(
    done: fedit_secure.Simulation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bundle is the aggregator's, and its states follow from sums of A alone."""
    bundle = tmp_path / "bundle.zip"
    hub = done.folder.parent / "aggregator"
    state = hub / "state" / done.charter.digest().hex()[:16]
    state.parent.mkdir(parents=True)
    state.symlink_to(done.folder)
    config = str(hub / "aggregator.yaml")
    assert main(["audit", "export", config, "-o", str(bundle)]) == 0
    assert main(["audit", "verify", str(bundle), "--jobs", "1"]) == 0, (
        capsys.readouterr().out
    )


def test_a_leakage_test_looks_at_the_silos_own_adapter(
    done: fedit_secure.Simulation,
) -> None:
    """The certified state by itself is the base model here, and would show nothing."""
    folder = done.folder.parent
    config = load_silo_config(folder / "north" / "silo.yaml")
    ready = prepared(config, None, None, None)
    tensors = own(done, "north")
    expected = [tensors[key].reshape(-1) for key, _ in done.charter.adapter.layout]
    np.testing.assert_array_equal(ready.adapter.vector, np.concatenate(expected))
    assert "with the silo's own B" in ready.adapter.name
