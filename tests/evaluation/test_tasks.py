"""lm-eval gets our models and its figures come back as rows.

Most of this runs against a stand-in for lm-eval that takes exactly the arguments that
0.4.13 takes; the last test runs the library itself where it is installed.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest
from evaluation.adapted import demo_adapter

from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.errors import ConfigError
from fedit_secure.evaluation.contenders import Contenders
from fedit_secure.evaluation.tasks import TaskRow, TaskSettings, run_tasks, task_rows
from fedit_secure.tuning.saved_adapter import read_peft_adapter


@pytest.fixture
def contenders(tmp_path):
    saved = read_peft_adapter(demo_adapter(tmp_path / "adapter"))
    return Contenders(base_model_path(), (saved,))


class Hflm:
    def __init__(self, pretrained, tokenizer, batch_size):
        self.model, self.tokenizer, self.batch_size = pretrained, tokenizer, batch_size


class Manager:
    def __init__(self, include_path=None):
        self.all_tasks = ["arc_easy", "piqa", *(["own"] if include_path else [])]


@pytest.fixture
def stand_in(monkeypatch):
    calls = []

    def simple_evaluate(
        model,
        tasks,
        num_fewshot,
        limit,
        task_manager,
        bootstrap_iters,
        log_samples,
        random_seed,
        numpy_random_seed,
        torch_random_seed,
        fewshot_random_seed,
    ):
        adapted = hasattr(model.model, "peft_config")
        calls.append((adapted, tasks, num_fewshot, limit, model.batch_size))
        figure = 0.75 if adapted else 0.5
        return {"results": {t: {"alias": t, "acc,none": figure} for t in tasks}}

    modules = {"lm_eval": ModuleType("lm_eval")}
    modules["lm_eval"].simple_evaluate = simple_evaluate
    modules["lm_eval.models"] = ModuleType("lm_eval.models")
    modules["lm_eval.models.huggingface"] = ModuleType("lm_eval.models.huggingface")
    modules["lm_eval.models.huggingface"].HFLM = Hflm
    modules["lm_eval.tasks"] = ModuleType("lm_eval.tasks")
    modules["lm_eval.tasks"].TaskManager = Manager
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return calls


def test_every_contender_is_measured_with_and_without_adapter(contenders, stand_in):
    settings = TaskSettings(("arc_easy", "piqa"), limit=7, few_shot=2, batch=3)
    rows = run_tasks(contenders, settings)
    tasks = ["arc_easy", "piqa"]
    assert stand_in == [(False, tasks, 2, 7, 3), (True, tasks, 2, 7, 3)]
    adapter = contenders.adapters[0].name
    assert [(row.model, row.task, row.value) for row in rows] == [
        ("base", "arc_easy", 0.5),
        ("base", "piqa", 0.5),
        (adapter, "arc_easy", 0.75),
        (adapter, "piqa", 0.75),
    ]


def test_an_unknown_task_is_named_before_anything_is_loaded(contenders, stand_in):
    with pytest.raises(ConfigError, match="knows no task 'own'"):
        run_tasks(contenders, TaskSettings(("piqa", "own")))
    assert stand_in == []


def test_without_the_library_it_says_what_to_install(contenders, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError, match=r"pip install 'fedit-secure\[tasks\]'"):
        run_tasks(contenders, TaskSettings(("piqa",)))


def test_figures_keep_their_filter_and_their_standard_error():
    results = {
        "t": {
            "alias": "t",
            "acc,none": 0.5,
            "acc_stderr,none": 0.1,
            "em,strict": 1,
            "em_stderr,strict": "N/A",
            "sample_len": 9,
        }
    }
    assert task_rows("m", results) == [
        TaskRow("m", "t", "acc", 0.5, 0.1),
        TaskRow("m", "t", "em (strict)", 1.0, None),
    ]


@pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval isn't installed")
def test_the_library_itself_measures_both(contenders, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    data = tmp_path / "questions.jsonl"
    lines = [{"question": f"What is {n} and {n}?"} for n in range(4)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = {
        "task": "own",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_target": 0,
        "doc_to_choice": ["yes", "no"],
        "metric_list": [{"metric": "acc", "aggregation": "mean"}],
    }
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "own.yaml").write_text(json.dumps(task))
    settings = TaskSettings(("own",), tmp_path / "tasks", limit=3)
    rows = run_tasks(contenders, settings)
    assert [(row.model, row.metric) for row in rows] == [
        ("base", "acc"),
        (contenders.adapters[0].name, "acc"),
    ]
    assert all(0 <= row.value <= 1 for row in rows)
