"""Public benchmarks through EleutherAI's lm-eval, where it is installed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedit_secure.errors import ConfigError
from fedit_secure.evaluation.contenders import Contenders


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One figure of one model on one task, with its standard error where there is one."""

    model: str
    task: str
    metric: str
    value: float
    standard_error: float | None


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """`names` as lm-eval knows them, or as `folder` (its include_path) defines them;
    `limit` examples of each task, None for all; `few_shot` None is the task's own."""

    names: tuple[str, ...]
    folder: Path | None = None
    limit: int | None = None
    few_shot: int | None = None
    batch: int = 8
    seed: int = 0


def run_tasks(contenders: Contenders, settings: TaskSettings) -> list[TaskRow]:
    """What lm-eval measures for every contender. No task may run code of its own.

    Raises:
        ConfigError: lm-eval isn't installed, or doesn't know a task.
    """
    lm_eval, hf_model, manager = _library(settings)
    rows: list[TaskRow] = []
    for name, model, tokenizer in contenders.each():
        found = lm_eval.simple_evaluate(
            model=hf_model(
                pretrained=model, tokenizer=tokenizer, batch_size=settings.batch
            ),
            tasks=list(settings.names),
            num_fewshot=settings.few_shot,
            limit=settings.limit,
            task_manager=manager,
            bootstrap_iters=1000,
            log_samples=False,
            random_seed=settings.seed,
            numpy_random_seed=settings.seed,
            torch_random_seed=settings.seed,
            fewshot_random_seed=settings.seed,
        )
        rows += task_rows(name, found["results"])
    return rows


def _library(settings: TaskSettings) -> tuple[Any, Any, Any]:
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as wrong:
        raise ConfigError(
            f"tasks need lm-eval ({wrong.name} isn't installed); run "
            "pip install 'fedit-secure[tasks]'"
        ) from None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    folder = None if settings.folder is None else str(settings.folder)
    manager = TaskManager(include_path=folder)
    known = set(manager.all_tasks)
    unknown = [name for name in settings.names if name not in known]
    if unknown:
        raise ConfigError(f"lm-eval knows no task {', '.join(map(repr, unknown))}")
    return lm_eval, HFLM, manager


def task_rows(model: str, results: dict[str, dict[str, Any]]) -> Sequence[TaskRow]:
    """lm-eval's results as rows. Its keys are "metric,filter" and "metric_stderr,filter"."""
    rows = []
    for task, figures in results.items():
        for key, value in figures.items():
            metric, _, way = key.partition(",")
            if not way or metric.endswith("_stderr") or not _number(value):
                continue
            error: Any = figures.get(f"{metric}_stderr,{way}")
            shown = metric if way == "none" else f"{metric} ({way})"
            spread = float(error) if _number(error) else None
            rows.append(TaskRow(model, task, shown, float(value), spread))
    return rows


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
