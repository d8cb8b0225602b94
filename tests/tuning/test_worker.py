"""The worker says what it may, ends with its parent, and names what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file, save_file
from tiny_models import make_plan

from fedit_secure.errors import ConfigError
from fedit_secure.federation.aggregation import places
from fedit_secure.federation.base_model import base_model_digest
from fedit_secure.tuning import examples, local_round, worker
from fedit_secure.tuning.examples import Example, load_template
from fedit_secure.tuning.job import ColumnMap, DataSource, OptimizerConfig, TuneJob
from fedit_secure.tuning.job_loading import load_job
from fedit_secure.tuning.kept_part import taken

WORKER = [sys.executable, "-m", "fedit_secure.tuning.worker"]


def make_job(files: SimpleNamespace, **changes: Any) -> TuneJob:
    values = {
        "model": str(files.model),
        "data": DataSource(path=str(files.data)),
        "max_tokens": 128,
        "lora": files.lora,
        "optimizer": OptimizerConfig(learning_rate=0.01),
        "plan": make_plan(local_steps=2).as_dict(),
        "state_path": str(files.state),
        "layout": files.layout,
    }
    return TuneJob(**(values | changes))


def tune(job: TuneJob) -> tuple[np.ndarray, list[dict[str, object]]]:
    """The worker's job in this process, told to go at once."""
    told: list[dict[str, object]] = []
    go = threading.Event()
    go.set()
    tuned = worker.tune(job, lambda **fields: told.append(fields), go)
    kept = job.kept_length
    assert (tuned.update.shape, tuned.kept.shape) == ((job.update_length,), (kept,))
    return np.concatenate([tuned.update, tuned.kept]), told


def test_a_job_yields_an_update_and_tells_only_the_steps(job_files) -> None:
    digest = base_model_digest(job_files.model).hex()
    job = make_job(job_files, model_digest=digest)
    update, told = tune(job)
    assert update.shape == (job.length,)
    assert np.isfinite(update).all()
    assert update.any()
    assert told == [
        {"phase": "loading"},
        {"phase": "ready"},
        {"phase": "tuning", "step": 1, "of": 2},
        {"phase": "tuning", "step": 2, "of": 2},
    ]


def test_what_stays_in_the_silo_is_the_same_tunings_and_apart(
    job_files, monkeypatch
) -> None:
    """One clip and one noise over A and B: then each goes its own way."""
    monkeypatch.setattr(worker, "os", SimpleNamespace(urandom=lambda _: bytes(32)))
    change, told = tune(make_job(job_files))
    job = make_job(job_files, kept=("B",))
    both, told_again = tune(job)
    assert told_again == told
    initial = load_file(job_files.state)["adapter"]
    released, stays = both[: job.update_length], both[job.update_length :]
    for factor, found in (("A", released), ("B", stays)):
        parts = places(job.layout, (factor,))
        expected = taken(change, parts)
        if factor == "B":
            expected = taken(initial, parts) + expected
        assert expected.any()
        np.testing.assert_array_equal(found, expected)


def test_another_template_than_was_agreed_on_is_refused(job_files) -> None:
    agreed = load_template("alpaca").digest.hex()
    load_job(make_job(job_files, template_digest=agreed))
    with pytest.raises(ConfigError, match="template 'vicuna' isn't the one that was"):
        load_job(make_job(job_files, template="vicuna", template_digest=agreed))


def person_plan(**changes: Any) -> dict[str, Any]:
    plan = make_plan(local_steps=2).as_dict()
    return plan | {"unit": "person", "records_per_person": 2} | changes


def test_a_plan_per_person_hands_the_persons_to_the_round(
    job_files, tmp_path, monkeypatch
) -> None:
    lines = job_files.data.read_text(encoding="utf-8").splitlines()[:6]
    rows = [
        {**json.loads(line), "patient": f"p{number // 3}"}
        for number, line in enumerate(lines)
    ]
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    seen: list[list[int]] = []
    real = local_round.run_round

    def watched(*arguments: Any, **named: Any) -> Any:
        seen.extend(unit.tolist() for unit in named["units"])
        return real(*arguments, **named)

    monkeypatch.setattr(local_round, "run_round", watched)
    job = make_job(
        job_files,
        data=DataSource(path=str(path), columns=ColumnMap(person="patient")),
        plan=person_plan(),
        unit_key="0c" * 32,
    )
    update, told = tune(job)
    assert np.isfinite(update).all()
    assert [len(unit) for unit in seen] == [2, 2]
    assert set(seen[0]) < {0, 1, 2}
    assert set(seen[1]) < {3, 4, 5}
    assert {"phase": "ready"} in told


def test_what_is_tried_beforehand_is_the_plans_worst_and_not_the_datas(
    job_files, tmp_path, monkeypatch
) -> None:
    """Else its time or its failure, before the charge, would tell of the records."""
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps({"instruction": "a", "response": "b", "patient": "p"}))
    tried: dict[str, Any] = {}

    def watched(*_: Any, **named: Any) -> None:
        tried.update(named)
        raise ConfigError("enough")

    short = [Example(np.array([5, 6, 7]), 1)]  # the template alone is longer
    monkeypatch.setattr(examples, "make_examples", lambda *_, **__: short)
    monkeypatch.setattr(local_round, "prepare_round", watched)
    job = make_job(
        job_files,
        data=DataSource(path=str(path), columns=ColumnMap(person="patient")),
        plan=person_plan(records_per_person=5),
        unit_key="0c" * 32,
        max_tokens=100,
    )
    with pytest.raises(ConfigError, match="enough"):
        tune(job)
    assert (tried["max_tokens"], tried["unit_rows"]) == (100, 5)


def test_a_plan_per_person_needs_a_column_and_a_key(job_files) -> None:
    with pytest.raises(ConfigError, match=r"'data\.columns\.person' doesn't say"):
        tune(make_job(job_files, plan=person_plan(), unit_key="0c" * 32))
    named = DataSource(path=str(job_files.data), columns=ColumnMap(person="patient"))
    with pytest.raises(ConfigError, match="unit_key"):
        tune(make_job(job_files, data=named, plan=person_plan()))


def test_every_attempt_draws_its_own_noise(job_files) -> None:
    first, second = (tune(make_job(job_files))[0] for _ in range(2))
    assert not np.allclose(first, second)


def test_nothing_is_sampled_before_the_parent_says_so(
    job_files, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    class Asked(Exception):
        pass

    class Gate(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise Asked

    monkeypatch.setattr(worker.os, "urandom", lambda _: pytest.fail("a key was drawn"))
    with pytest.raises(Asked):
        worker.tune(
            make_job(job_files), lambda **fields: told.append(fields["phase"]), Gate()
        )
    assert told == ["loading", "ready"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"data": DataSource(path="nowhere.jsonl")}, "nowhere.jsonl: no such file"),
        ({"template": "klingon"}, "unknown template 'klingon'"),
        ({"model": "./nowhere"}, "nowhere: no such base model folder"),
        ({"model_digest": "00" * 32}, "isn't the base model that was agreed on"),
        ({"state_path": "nowhere"}, "nowhere: the adapter state can't be read"),
        ({"plan": {"clip": 1}}, "tuning job: plan: the plan lacks the field"),
        ({"max_tokens": 4096}, "max_tokens is 4096, but the base model has 128"),
        ({"layout": (("a", (3,)),)}, "must hold one float32 vector 'adapter' of 3"),
    ],
)
def test_bad_jobs_are_refused_in_one_sentence(
    job_files, change: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        tune(make_job(job_files, **change))
    assert "\n" not in str(caught.value)


def test_the_base_model_is_loaded_as_the_job_says(
    job_files, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def load(_folder: Path, **options: object) -> None:
        asked.update(options)
        raise ConfigError("enough")

    monkeypatch.setattr("fedit_secure.tuning.base_model.load_base_model", load)
    choice = {"device": "auto", "precision": "bfloat16", "quantization": "nf4"}
    with pytest.raises(ConfigError, match="enough"):
        tune(make_job(job_files, **choice))
    assert asked == choice


def test_a_column_that_is_missing_is_refused(job_files) -> None:
    source = DataSource(path=str(job_files.data), columns=ColumnMap(person="patient"))
    with pytest.raises(ConfigError, match="has no column 'patient'"):
        tune(make_job(job_files, data=source))


def test_a_layout_of_another_model_is_refused(job_files) -> None:
    (first, *rest) = job_files.layout
    layout = (("base_model.other.weight", first[1]), *rest)
    with pytest.raises(ConfigError, match="where the base model has"):
        tune(make_job(job_files, layout=layout))


@pytest.mark.parametrize(
    "kind", ["other name", "float64", "no safetensors", "BF16", "F8_E4M3"]
)
def test_a_wrong_adapter_state_is_refused(job_files, tmp_path: Path, kind: str) -> None:
    job = make_job(job_files, state_path=str(tmp_path / "s"))
    vector = np.zeros(job.length, np.float64 if kind == "float64" else np.float32)
    if kind == "no safetensors":
        (tmp_path / "s").write_bytes(b"hello")
    elif kind in ("BF16", "F8_E4M3"):
        size = job.length * (2 if kind == "BF16" else 1)
        row = {"dtype": kind, "shape": [job.length], "data_offsets": [0, size]}
        header = json.dumps({"adapter": row}).encode()
        content = len(header).to_bytes(8, "little") + header + bytes(size)
        (tmp_path / "s").write_bytes(content)
    else:
        save_file(
            {"vector" if kind == "other name" else "adapter": vector}, job.state_path
        )
    with pytest.raises(ConfigError, match="adapter"):
        tune(job)


def run(job: TuneJob | str, code: str | None = None) -> tuple[int, bytes]:
    """The worker as a process; `code` prepares it. Its status, and what it said."""
    command = WORKER
    if code is not None:
        code += "; from fedit_secure.tuning import worker; sys.exit(worker.main())"
        command = [sys.executable, "-c", "import os, sys; " + code]
    line = job if isinstance(job, str) else job.to_json()
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(line.encode() + b"\nsample\n")
    child.stdin.flush()
    said = child.stdout.read()
    return child.wait(), said


def test_a_failure_is_one_line_and_the_documented_status(job_files) -> None:
    status, said = run(make_job(job_files, template="klingon"))
    assert status == ConfigError.exit_status == 4
    last = json.loads(said.splitlines()[-1])
    assert last["phase"] == "failed"
    assert last["exit_status"] == 4
    assert last["error"].startswith("unknown template 'klingon'")


def test_a_broken_job_line_is_refused() -> None:
    status, said = run("{nonsense")
    assert status == 4
    assert b"tuning job: " in said


def test_a_foreign_error_does_not_quote_records(job_files) -> None:
    code = (
        "import fedit_secure.tuning.records as r; "
        "r.load_records = lambda source: {}['patient 7']"
    )
    status, said = run(make_job(job_files), code)
    assert status == 1
    assert json.loads(said.splitlines()[-1])["error"] == (
        "the tuning worker failed (KeyError)"
    )
    assert b"patient 7" not in said


def test_stray_prints_do_not_reach_the_wire() -> None:
    code = (
        "import os; from fedit_secure.tuning import worker;"
        "wire = worker.take_standard_output();"
        "print('stray', flush=True); os.system('echo stray'); os.write(1, b'stray');"
        "wire.write(b'said'); wire.flush()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"said"
    assert done.stderr.count(b"stray") == 3


def gone(pid: int) -> bool:
    """Whether the process ends within ten seconds."""
    for _ in range(200):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_the_worker_ends_with_its_standard_input(job_files) -> None:
    code = (
        "import sys, time; from fedit_secure.tuning import worker;"
        "worker.tune = lambda job, tell, start: (tell(phase='busy'), time.sleep(60));"
        "sys.exit(worker.main())"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(make_job(job_files).to_json().encode() + b"\n")
    child.stdin.flush()
    assert child.stdout.readline() == b'{"phase": "busy"}\n'
    child.stdin.close()
    assert child.wait(20) != 0
    child.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
def test_the_worker_dies_with_its_parent() -> None:
    # Somebody else holds the pipe open, so the end of standard input can't be the cause.
    reader, writer = os.pipe()
    # However slowly it starts: it says when it has asked the kernel.
    worker_says = (
        "import os, sys; from fedit_secure.tuning import worker;"
        "ask = worker.die_with_parent;"
        "worker.die_with_parent = lambda parent: (ask(parent), os.write(2, b'.'));"
        "sys.exit(worker.main())"
    )
    code = (
        "import subprocess, sys, time;"
        f"command = [sys.executable, '-c', {worker_says!r}];"
        f"child = subprocess.Popen(command, stdin={reader}, stderr=subprocess.PIPE);"
        "child.stderr.read(1); print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, pass_fds=[reader]
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    try:
        assert psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        parent.send_signal(signal.SIGKILL)
        parent.wait(10)
        assert gone(pid)
    finally:
        parent.stdout.close()
        os.close(reader)
        os.close(writer)
