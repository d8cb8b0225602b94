"""Scores against slow references, on a model of a few thousand weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedit_secure.errors import ConfigError
from fedit_secure.evaluation.score import (
    continue_prompts,
    cut_prompts,
    rate_answers,
    score,
)
from fedit_secure.tuning.examples import load_template, make_examples
from fedit_secure.tuning.records import Record

RECORDS = [
    Record("Name the colour.", "grass after rain", "green", "colour"),
    Record("Name the colour.", "", "blue, like the sky of a summer day", "colour"),
    Record("Count.", "one two three", "three", "count"),
    Record("Count the sheep that stand on the hill.", "", "there are none", None),
]
TEMPLATE = load_template("alpaca")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer():
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    texts = [TEMPLATE.prompt(r) + r.response for r in RECORDS]
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<pad>", "<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.5,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


def reference_nlls(model, tokenizer, max_tokens):
    """One record at a time, the whole forward, transformers' own loss."""
    nlls = []
    for example in make_examples(RECORDS, tokenizer, TEMPLATE, max_tokens=max_tokens):
        tokens = torch.from_numpy(example.tokens)[None]
        labels = tokens.clone()
        labels[0, : example.first_label] = -100
        with torch.no_grad():
            nlls.append(model(input_ids=tokens, labels=labels).loss.item())
    return np.array(nlls)


@pytest.mark.parametrize("max_tokens", [40, 200])
def test_nll_is_the_mean_of_transformers_own_loss_record_by_record(
    model, tokenizer, max_tokens
):
    found = score(model, tokenizer, RECORDS, TEMPLATE, max_tokens)
    expected = reference_nlls(model, tokenizer, max_tokens)
    np.testing.assert_allclose(found.record_nlls, expected, rtol=1e-5)
    assert found.nll == pytest.approx(expected.mean(), rel=1e-5)
    assert found.n == 4
    assert found.skipped == 0
    assert found.perplexity == pytest.approx(np.exp(expected.mean()), rel=1e-4)


def test_categories_are_means_of_their_own_records(model, tokenizer):
    found = score(model, tokenizer, RECORDS, TEMPLATE, 200)
    first, second, third, fourth = reference_nlls(model, tokenizer, 200)
    assert list(found.per_category) == ["all", "colour", "count"]
    assert found.per_category["colour"] == pytest.approx((first + second) / 2, rel=1e-5)
    assert found.per_category["count"] == pytest.approx(third, rel=1e-5)
    assert found.per_category["all"] == pytest.approx(fourth, rel=1e-5)


def test_batching_and_order_change_no_score(model, tokenizer):
    whole = score(model, tokenizer, RECORDS, TEMPLATE, 200)
    single = score(model, tokenizer, RECORDS, TEMPLATE, 200, token_budget=1)
    backwards = score(model, tokenizer, RECORDS[::-1], TEMPLATE, 200)
    np.testing.assert_allclose(single.record_nlls, whole.record_nlls, rtol=1e-5)
    np.testing.assert_allclose(
        backwards.record_nlls, whole.record_nlls[::-1], rtol=1e-5
    )


def test_scoring_leaves_the_mode_of_the_model_alone(model, tokenizer):
    model.train()
    score(model, tokenizer, RECORDS, TEMPLATE, 200)
    continue_prompts(model, tokenizer, [[5, 6]], 2)
    assert model.training
    model.eval()


def test_nothing_to_score_is_said(model, tokenizer):
    with pytest.raises(ConfigError, match="no record with a response"):
        score(model, tokenizer, [], TEMPLATE, 200)


def test_generated_answers_equal_a_greedy_loop_prompt_by_prompt(model, tokenizer):
    prompts = TEMPLATE.prompts(tokenizer, RECORDS)
    found = continue_prompts(model, tokenizer, prompts, 12, batch=3)
    for prompt, answer in zip(prompts, found, strict=True):
        tokens = list(prompt)
        start = len(tokens)
        while len(tokens) < start + 12:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([tokens])).logits[0, -1]
            tokens.append(int(logits.argmax()))
            if tokens[-1] == tokenizer.eos_token_id:
                break
        text = tokenizer.decode(tokens[start:], skip_special_tokens=True)
        assert answer == text.strip()
    assert len(set(found)) > 1


def test_a_prompt_beyond_the_positions_is_refused(model, tokenizer):
    with pytest.raises(ConfigError, match="256 positions"):
        continue_prompts(model, tokenizer, [[5] * 100], 200)


def test_long_prompts_are_cut_so_that_an_answer_fits(model, tokenizer):
    records = [*RECORDS, Record("Count.", "one two three " * 200, "many")]
    prompts = cut_prompts(model, tokenizer, records, TEMPLATE, 40)
    assert len(prompts[-1]) == 256 - 40
    uncut = [tokenizer(TEMPLATE.prompt(record))["input_ids"] for record in RECORDS]
    assert prompts[:-1] == uncut
    assert len(continue_prompts(model, tokenizer, prompts, 40)) == 5
    with pytest.raises(ConfigError, match="no room"):
        cut_prompts(model, tokenizer, records, TEMPLATE, 254)


def test_the_reference_has_no_part_in_a_prompt(model, tokenizer):
    long = Record("Count.", "one two three " * 200, "three " * 90)
    short = Record("Count.", "one two three " * 200, "3")
    first, second = cut_prompts(model, tokenizer, [long, short], TEMPLATE, 40)
    assert first == second


def test_progress_counts_every_record_once(model, tokenizer):
    told = []
    score(
        model,
        tokenizer,
        RECORDS,
        TEMPLATE,
        200,
        token_budget=1,
        on_progress=lambda *step: told.append(step),
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    told.clear()
    prompts = cut_prompts(model, tokenizer, RECORDS, TEMPLATE, 2)
    continue_prompts(
        model,
        tokenizer,
        prompts,
        2,
        batch=3,
        on_progress=lambda *step: told.append(step),
    )
    assert told == [(3, 4), (4, 4)]


def test_answers_are_rated_by_longest_common_subsequence():
    rated = rate_answers(["green", "blue sky", "four", ""], RECORDS)
    # "blue sky" is a subsequence of 8 words: precision 1, recall 1/4.
    overlap = 2 * 1 * 0.25 / 1.25
    assert rated.per_category == pytest.approx(
        {"all": 0.0, "colour": (1 + overlap) / 2, "count": 0.0}
    )
    assert rated.rouge_l == pytest.approx((1 + overlap) / 4)
    assert rated.exact_match == pytest.approx(0.25)
    assert rated.n == 4


def test_every_answer_needs_its_record():
    with pytest.raises(ValueError, match="zip"):
        rate_answers(["green"], RECORDS)
    with pytest.raises(ConfigError, match="no answer"):
        rate_answers([], [])
