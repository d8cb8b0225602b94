"""Models on the same records: each row against scores that are computed apart."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from evaluation.adapted import adapt, demo_adapter, save_tiny
from transformers import AutoTokenizer

from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.errors import ConfigError
from fedit_secure.evaluation.contenders import Contenders
from fedit_secure.evaluation.intervals import interval
from fedit_secure.evaluation.merge import Merge, merge
from fedit_secure.evaluation.score import continue_prompts, rate_answers, score
from fedit_secure.evaluation.side_by_side import Settings, side_by_side
from fedit_secure.federation.base_model import base_model_digest
from fedit_secure.tuning.base_model import load_base_model, load_tokenizer
from fedit_secure.tuning.examples import load_template
from fedit_secure.tuning.records import Record
from fedit_secure.tuning.saved_adapter import put_on, read_peft_adapter

RECORDS = [
    Record("Set the flag of this lab value.", "oxygen low", "Flag L: note it.", "lab"),
    Record("Which triage level is this?", "dizzy", "Triage 2: bed at once.", "triage"),
    Record("Set the flag of this lab value.", "oxygen high", "Flag H.", "lab"),
    Record("Say yes.", "", "yes", None),
]
SETTINGS = Settings(load_template("alpaca"), max_tokens=200, max_new_tokens=6)


@pytest.fixture(scope="module")
def contenders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contenders")
    saved = tuple(
        read_peft_adapter(demo_adapter(folder / name, scale=scale))
        for name, scale in (("weak", 0.02), ("strong", 0.1))
    )
    merge(Merge(base_model_path(), saved[1], folder / "merged"))
    return Contenders(base_model_path(), saved, (folder / "merged",))


@pytest.fixture(scope="module")
def found(contenders):
    return side_by_side(contenders, RECORDS, SETTINGS)


def alone(adapter):
    """NLLs and answers of one model that is loaded by itself."""
    model = load_base_model(base_model_path())
    tokenizer = load_tokenizer(base_model_path())
    if adapter is not None:
        model = put_on(model, adapter)
    prompts = [SETTINGS.template.prompt(record) for record in RECORDS]
    scores = score(model, tokenizer, RECORDS, SETTINGS.template, 200)
    tokens = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    return scores.record_nlls, continue_prompts(model, tokenizer, tokens, 6)


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_each_row_is_what_the_model_scores_alone(contenders, found, number):
    name = contenders.names[number]
    adapter = (None, *contenders.adapters, contenders.adapters[1])[number]
    nlls, answers = alone(adapter)
    base, _ = alone(None)
    mine = {row.category: row for row in found.rows if row.model == name}
    assert list(mine) == [None, "lab", "triage"]
    assert found.answers[name] == answers
    for category, slots in ((None, [0, 1, 2, 3]), ("lab", [0, 2]), ("triage", [1])):
        row = mine[category]
        assert row.records == len(slots)
        assert row.nll == pytest.approx(nlls[slots].mean(), abs=1e-4)
        assert row.perplexity == pytest.approx(np.exp(row.nll))
        rated = rate_answers([answers[s] for s in slots], [RECORDS[s] for s in slots])
        assert (row.rouge_l, row.exact_match) == (rated.rouge_l, rated.exact_match)
        if number == 0:
            assert (row.nll_minus_base, row.low, row.high) == (None, None, None)
        else:
            gain = (nlls - base)[slots].mean()
            assert row.nll_minus_base == pytest.approx(gain, abs=1e-4)
            assert (row.low is None) == (len(slots) == 1)
            if row.low is not None:
                assert row.low <= row.nll_minus_base <= row.high


def test_without_answers_there_is_no_rouge(contenders):
    settings = Settings(SETTINGS.template, max_tokens=200, max_new_tokens=0)
    only_base = Contenders(contenders.base)
    told = []
    found = side_by_side(only_base, RECORDS, settings, lambda *step: told.append(step))
    assert {(row.rouge_l, row.exact_match) for row in found.rows} == {(None, None)}
    assert found.answers == {}
    assert told[-1] == ("base: NLL", 4, 4)


def test_an_interval_covers_the_true_mean_about_as_often_as_it_says():
    random = np.random.default_rng(11)
    hits = 0
    for trial in range(60):
        low, high = interval(random.normal(0.3, 1.0, 40), 0.9, trial)
        hits += low <= 0.3 <= high
    assert 45 <= hits <= 60  # binomial(60, 0.9): 54, and below 45 once in ten thousand


def test_intervals_where_there_is_nothing_to_resample():
    assert interval(None, 0.95, 0) == (None, None)
    assert interval(np.array([0.5]), 0.95, 0) == (None, None)
    assert interval(np.full(5, -0.25), 0.95, 0) == (-0.25, -0.25)


def test_an_interval_is_the_same_for_the_same_seed():
    differences = np.random.default_rng(0).normal(size=30)
    assert interval(differences, 0.95, 3) == interval(differences, 0.95, 3)
    assert interval(differences, 0.95, 3) != interval(differences, 0.95, 4)


def test_a_merged_model_of_another_tokenizer_is_refused(contenders, tmp_path):
    other = shutil.copytree(contenders.merged[0], tmp_path / "other")
    AutoTokenizer.from_pretrained(save_tiny(tmp_path / "tiny")).save_pretrained(other)
    against = Contenders(contenders.base, merged=(other,))
    with pytest.raises(ConfigError, match="can't be compared"):
        side_by_side(against, RECORDS, SETTINGS)


def test_an_adapter_of_another_base_is_refused(contenders, tmp_path):
    tiny = save_tiny(tmp_path / "tiny")
    adapter = read_peft_adapter(adapt(tiny, tmp_path / "adapter"))
    with pytest.raises(ConfigError, match="layout names"):
        list(Contenders(contenders.base, (adapter,)).each())


def test_a_base_that_is_not_the_agreed_one_is_refused(contenders):
    digest = base_model_digest(contenders.base).hex()
    assert next(Contenders(contenders.base, base_digest=digest).each())[0] == "base"
    with pytest.raises(ConfigError, match="agreed on"):
        next(Contenders(contenders.base, base_digest="0" * 64).each())
