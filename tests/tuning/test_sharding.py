"""A base model that is split over processes: what can't be, and what ends the job there.

That its sums are those of a whole one is in `test_dealing`.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_worker import make_job
from tiny_models import Sums, make_plan, random_examples, tuned_model

from fedit_secure.config import Torchrun
from fedit_secure.errors import ConfigError, TuningFailed
from fedit_secure.tuning import preflight, sharding
from fedit_secure.tuning.adapter import read_adapter
from fedit_secure.tuning.job_loading import load_job
from fedit_secure.tuning.local_round import prepare_round

EVERYBODY = np.arange(6)


@pytest.fixture
def model():
    """A whole model that passes for a split one: alone, a process has nobody to ask."""
    model = tuned_model()
    setattr(model, sharding._MARK, True)
    return model


def run_out(*_: object) -> None:
    raise torch.OutOfMemoryError


def test_memory_that_runs_out_is_not_tried_again(model) -> None:
    """The others would be in the middle of a pass that this process has left."""
    sums = Sums(model, random_examples(6), clip=0.1, budget=100)
    passes: list[int] = []

    def forward(*_: object) -> None:
        passes.append(1)
        run_out()

    model.get_input_embeddings().register_forward_pre_hook(forward)
    with pytest.raises(TuningFailed, match="lower 'token_budget'"):
        sums.sum(EVERYBODY)
    assert len(passes) == 1


def test_memory_that_runs_out_in_the_checks_fails_them(model, monkeypatch) -> None:
    """On a whole model, long records that don't fit together are no reason to."""

    def long_ones(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].numel() > 150:
            run_out()

    monkeypatch.setattr(preflight, "refuse_forward", lambda *_: None)
    model.get_input_embeddings().register_forward_pre_hook(long_ones)
    initial = read_adapter(model)
    how = {"initial": initial, "max_tokens": 100, "token_budget": 100}
    with pytest.raises(TuningFailed, match="synthetic records don't fit"):
        prepare_round(model, make_plan(), **how)
    delattr(model, sharding._MARK)
    prepare_round(model, make_plan(), **how)


def test_a_gradient_that_is_not_finite_is_not_looked_for_without_a_clip(model) -> None:
    sums = Sums(model, random_examples(6), clip=None, budget=1000)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(torch.inf)
    with pytest.raises(TuningFailed, match="isn't finite, and nothing is clipped"):
        sums.sum(EVERYBODY)


def test_a_model_without_marked_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="layers can't be split"):
        sharding.shard_base(tuned_model().get_input_embeddings(), torch.device("cpu"))


def test_a_quantised_base_model_is_refused(job_files) -> None:
    both = Torchrun(processes=2, shard=True)
    with pytest.raises(
        ConfigError, match=r"'torchrun\.shard' goes with quantization none"
    ):
        load_job(make_job(job_files, torchrun=both, quantization="int8"))
