"""A tuning job in a child process: its update, its failures, and its end."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from fedit_secure.errors import ConfigError, TuningFailed
from fedit_secure.silo import tuner
from fedit_secure.silo.tuner import tune_in_child
from fedit_secure.tuning.job import DataSource, OptimizerConfig, Progress, TuneJob

DONE = "say(phase='done', length=12, sha256=digest); send(data)"
LAYOUT = (("a.lora_A.weight", (2, 3)), ("a.lora_B.weight", (3, 2)))


def make_job() -> TuneJob:
    return TuneJob(
        model="none",
        data=DataSource(path="none.jsonl"),
        optimizer=OptimizerConfig(learning_rate=1.0),
        plan={},
        state_path="none",
        layout=LAYOUT,
    )


KEPT_SAID = "say(phase='kept', length=6, sha256=kept); send(half)"


def child_does(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Start this code in the worker's place: a worker that misbehaves."""
    prelude = (
        "import hashlib, json, os, signal, struct, sys, time\n"
        "def say(**fields): print(json.dumps(fields), flush=True)\n"
        "def send(data): os.write(1, data)\n"
        "job = json.loads(sys.stdin.readline())\n"
        "data = struct.pack('<12f', *range(12))\n"
        "digest = hashlib.sha256(data).hexdigest()\n"
        "half = data[24:]; kept = hashlib.sha256(half).hexdigest()\n"
    )
    monkeypatch.setattr(tuner, "_WORKER", ("-c", prelude + code))


async def test_what_the_silo_keeps_comes_after_the_update_and_apart(
    monkeypatch,
) -> None:
    first = "say(phase='done', length=6, sha256=hashlib.sha256(data[:24]).hexdigest())"
    child_does(monkeypatch, f"{first}; send(data[:24]); {KEPT_SAID}")
    told: list[np.ndarray] = []

    async def keep(values: np.ndarray) -> None:
        told.append(values)

    job = make_job().model_copy(update={"kept": ("B",)})
    update = await tune_in_child(job, keep=keep)
    assert update.tolist() == list(range(6))
    assert [values.tolist() for values in told] == [list(range(6, 12))]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("", "the tuning worker ended early"),
        ("say(phase='ready')", "didn't yield what the silo keeps"),
        (KEPT_SAID.replace("length=6", "length=5"), "has 5 coordinates instead of 6"),
        (KEPT_SAID.replace("sha256=kept", "sha256=digest"), "was damaged on its way"),
    ],
)
async def test_without_what_the_silo_keeps_there_is_no_update(
    monkeypatch, said: str, sentence: str
) -> None:
    """An update without its B would be half of a tuning."""
    first = "say(phase='done', length=6, sha256=hashlib.sha256(data[:24]).hexdigest())"
    child_does(monkeypatch, f"{first}; send(data[:24])\n{said}")
    job = make_job().model_copy(update={"kept": ("B",)})

    async def keep(values: np.ndarray) -> None:
        pytest.fail("something else was kept")

    with pytest.raises(TuningFailed, match=sentence):
        await tune_in_child(job, keep=keep)


async def test_the_update_and_every_phase_come_through(monkeypatch) -> None:
    child_does(
        monkeypatch,
        "say(phase='loading'); say(phase='ready')\n"
        "assert sys.stdin.readline() == 'sample\\n'\n"
        "say(phase='tuning', step=1, of=1)\n" + DONE,
    )
    told: list[object] = []

    async def reserve() -> None:
        told.append("reserved")

    update = await tune_in_child(make_job(), told.append, before_sampling=reserve)
    assert update.dtype == np.float32
    assert update.tolist() == list(range(12))
    assert told == [
        Progress("loading"),
        Progress("ready"),
        "reserved",
        Progress("tuning", 1, 1),
    ]


async def test_a_failed_reserve_samples_nothing(monkeypatch, tmp_path: Path) -> None:
    mark = tmp_path / "sampled"
    child_does(
        monkeypatch,
        f"say(phase='ready'); sys.stdin.readline(); open({str(mark)!r}, 'w')",
    )

    async def refuse() -> None:
        raise ConfigError("no budget")

    with pytest.raises(ConfigError, match="no budget"):
        await tune_in_child(make_job(), before_sampling=refuse)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("code", "error", "sentence"),
    [
        (
            "say(phase='failed', error='r.jsonl: is bad', exit_status=4)",
            ConfigError,
            "^r.jsonl: is bad$",
        ),
        (
            "say(phase='failed', error='no memory', exit_status=1)",
            TuningFailed,
            "^no memory$",
        ),
        ("os.kill(os.getpid(), signal.SIGKILL)", TuningFailed, "killed by signal 9"),
        ("sys.exit(3)", TuningFailed, "ended early with status 3"),
        ("sys.exit(0)", TuningFailed, "ended early with status 0"),
        ("print('hello', flush=True)", TuningFailed, "isn't JSON"),
        (DONE.replace("data)", "data[:40])"), TuningFailed, "ended early"),
        (
            "say(phase='done', length=12, sha256=digest); send(b'x' + data[1:])",
            TuningFailed,
            "damaged on its way",
        ),
        (
            "say(phase='done', length=10, sha256=digest); send(data)",
            TuningFailed,
            "10 coordinates instead of 12",
        ),
        (
            "data = data[:44] + struct.pack('<f', float('nan')); "
            "digest = hashlib.sha256(data).hexdigest(); " + DONE,
            TuningFailed,
            "isn't finite",
        ),
    ],
)
async def test_failures_are_one_sentence(monkeypatch, code, error, sentence) -> None:
    child_does(monkeypatch, code)
    with pytest.raises(error, match=sentence) as caught:
        await tune_in_child(make_job())
    assert "\n" not in str(caught.value)


async def test_a_child_that_does_not_read_its_job_is_a_failure(monkeypatch) -> None:
    monkeypatch.setattr(tuner, "_WORKER", ("-c", "import sys; sys.exit(9)"))
    with pytest.raises(TuningFailed, match="ended early with status 9"):
        await tune_in_child(make_job())


async def test_cancelling_kills_the_child(monkeypatch, tmp_path: Path) -> None:
    child_does(
        monkeypatch,
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "say(phase='loading'); time.sleep(600)",
    )
    started = asyncio.Event()
    task = asyncio.create_task(tune_in_child(make_job(), lambda _: started.set()))
    await asyncio.wait_for(started.wait(), 30)
    pid = int((tmp_path / "pid").read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not psutil.pid_exists(pid)


async def test_the_real_worker_refuses_a_bad_job_before_loading_torch() -> None:
    started = time.monotonic()
    with pytest.raises(ConfigError, match="tuning job: plan: "):
        await tune_in_child(make_job())
    assert time.monotonic() - started < 60


async def test_the_real_worker_tunes(tmp_path: Path) -> None:
    """The whole way: a process of its own, a real model, a real step."""
    torch = pytest.importorskip("torch")
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from fedit_secure.federation.base_model import base_model_digest
    from fedit_secure.privacy.plan import DpPlan
    from fedit_secure.tuning.adapter import initial_adapter
    from fedit_secure.tuning.job import LoraConfig

    torch.manual_seed(0)
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.train_from_iterator(
        ["some words"],
        trainers.BpeTrainer(
            vocab_size=270,
            special_tokens=["</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    folder = tmp_path / "model"
    PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>").save_pretrained(
        folder
    )
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=256,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    layout, vector = initial_adapter(model, LoraConfig(rank=2), seed=0)
    save_file({"adapter": vector}, tmp_path / "state")
    rows = [{"instruction": f"{n}?", "response": f"{n}!"} for n in range(20)]
    data = tmp_path / "r.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = DpPlan(
        sample_rate=0.4,
        noise_multiplier=1.0,
        clip=0.5,
        expected_batch=8,
        local_steps=3,
        rounds=1,
        delta=1e-5,
    )
    told: list[Progress] = []
    update = await tune_in_child(
        TuneJob(
            model=str(folder),
            model_digest=base_model_digest(folder).hex(),
            data=DataSource(path=str(data)),
            max_tokens=160,
            lora=LoraConfig(rank=2),
            optimizer=OptimizerConfig(learning_rate=0.01),
            plan=plan.as_dict(),
            state_path=str(tmp_path / "state"),
            layout=layout,
        ),
        told.append,
        errors=sys.stderr.fileno(),
    )
    assert update.shape == vector.shape
    assert update.any()
    assert [at.phase for at in told] == ["loading", "ready", *["tuning"] * 3]
    assert told[-1] == Progress("tuning", 3, 3)
