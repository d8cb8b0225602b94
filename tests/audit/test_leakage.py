"""Found where records are known by heart, and not where they were never seen."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from audit.remembering import (
    MAX_TOKENS,
    TEMPLATE,
    load_model,
    notes,
    remembered,
    tuned_on,
)

from fedit_secure.audit.leakage.findings import findings
from fedit_secure.audit.leakage.trial import Trial, leakage
from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.errors import ConfigError
from fedit_secure.privacy.plan import DpPlan
from fedit_secure.tuning.base_model import load_tokenizer
from fedit_secure.tuning.examples import make_examples

TRIAL = Trial(length=8)
PLAN = DpPlan(
    kind="none",
    sample_rate=0.5,
    noise_multiplier=0.0,
    clip=1.0,
    expected_batch=12,
    local_steps=1,
    rounds=1,
    delta=None,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def by_heart():
    return load_model(remembered()[1])


def located(records, first=1):
    return [(f"line {i}", record) for i, record in enumerate(records, first)]


def tried(model, own, held_out=(), secrets=None, plan=PLAN, trial=TRIAL):
    return leakage(
        model, located(own), located(held_out), secrets or {}, plan, b"k", trial
    )


def verdicts(result):
    return [finding.verdict for finding in findings(result)]


@pytest.fixture(scope="module")
def found(by_heart):
    return tried(by_heart, remembered()[0], notes(24, seed=2))


def test_records_known_by_heart_are_found(found):
    assert verdicts(found) == ["found", "found", "not tested"]
    assert found.found
    assert max(attack.area for attack in found.membership.attacks) == 1.0
    assert found.membership.implied > 1
    assert found.extraction.members.by_adapter >= 18
    assert found.extraction.controls.by_adapter == 0
    assert found.extraction.members.longest > 12 > found.extraction.controls.longest


def test_passages_are_the_records_own_text(found):
    records = dict(located(remembered()[0]))
    assert len(found.exposed) == 24
    for row in found.exposed:
        assert row.text.strip() in records[row.where].response
        assert row.times == 1
    assert found.exposed[0].comes_back


def test_records_never_seen_are_not_found(by_heart):
    """The same adapter, asked by a silo that took no part in it."""
    result = tried(by_heart, notes(24, seed=3), notes(24, seed=2))
    assert verdicts(result) == ["nothing found", "nothing found", "not tested"]
    assert not result.found
    assert not result.exposed
    for attack in result.membership.attacks:
        assert attack.low <= 0.5 <= attack.high


def test_an_adapter_that_does_nothing_gives_nothing_away():
    adapter = tuned_on(notes(2, seed=4), steps=0)  # B is zero
    result = tried(load_model(adapter), notes(24, seed=1), notes(24, seed=2))
    assert not result.found
    calibrated = result.membership.attacks[1]
    assert calibrated.area == pytest.approx(0.5)
    assert result.extraction.members.by_adapter == 0


def test_without_held_out_records_it_says_what_cannot_be_tested(by_heart):
    result = tried(by_heart, remembered()[0])
    assert verdicts(result) == ["not tested", "unclear", "not tested"]
    membership, extraction, _ = findings(result)
    assert "--holdout" in membership.do
    assert "Without held-out records that can't be told" in extraction.means


def test_names_that_are_known_by_heart(by_heart):
    """Each response's last words, where the adapter has seen one of them each."""
    records = remembered()[0]
    secrets = {}
    for number, record in enumerate(records, 1):
        secrets[" ".join(record.response.split()[-3:])] = number
    result = tried(by_heart, records, secrets=secrets)
    assert result.names.verdict == "found"
    assert result.names.first > len(result.names.asked) / 2
    strangers = {
        " ".join(record.response.split()[-3:]): number
        for number, record in enumerate(notes(24, seed=3), 1)
    }
    other = tried(by_heart, notes(24, seed=3), secrets=strangers)
    assert other.names.verdict == "nothing found"


def test_the_likeliest_tokens_are_what_greedy_decoding_says(by_heart):
    """So nothing has to be generated to know what comes back, from any prefix."""
    records = remembered()[0][:6]
    tokenizer = load_tokenizer(base_model_path())
    examples = make_examples(records, tokenizer, TEMPLATE, MAX_TOKENS)
    model = by_heart._model
    for scored, example in zip(by_heart.score(records), examples, strict=True):
        for prefix in (0, 5):
            start = example.first_label + prefix
            given = torch.from_numpy(example.tokens[:start])[None]
            with torch.no_grad():
                said = model.generate(
                    input_ids=given,
                    attention_mask=torch.ones_like(given),
                    max_new_tokens=len(example.tokens) - start,
                    do_sample=False,
                    pad_token_id=0,
                )[0, start:].numpy()
            truth = example.tokens[start : start + len(said)]
            wrong = np.flatnonzero(said != truth)
            same = int(wrong[0]) if len(wrong) else len(said)
            missed = np.flatnonzero(~scored.adapter.greedy[prefix:])
            assert same == (int(missed[0]) if len(missed) else len(said))


def test_batches_and_other_records_change_no_score(by_heart):
    records = notes(5, seed=7)
    together = by_heart.score(records)
    for record, scored in zip(records, together, strict=True):
        (alone,) = by_heart.score([record])
        for ours, theirs in (
            (scored.adapter, alone.adapter),
            (scored.base, alone.base),
        ):
            np.testing.assert_allclose(ours.log_probs, theirs.log_probs, rtol=1e-4)


def test_the_claim_stands_beside_what_is_found(by_heart):
    plan = replace(
        PLAN,
        kind="local",
        noise_multiplier=5.0,
        delta=1e-5,
        spare_charges=0,
        sample_rate=0.1,
    )
    result = tried(by_heart, remembered()[0], notes(24, seed=2), plan=plan)
    told = result.membership
    assert told.epsilon == pytest.approx(plan.epsilons().published)
    assert told.epsilon < 0.2
    assert told.beyond_the_claim
    membership = findings(result)[0]
    assert "more clearly than the charter's epsilon" in membership.means
    assert "fedit audit canary" in membership.do
    assert told.most_area == pytest.approx(
        1 - 1 / (1 + math.exp(told.epsilon)), abs=1e-4
    )


def test_findings_never_hold_a_records_text(found):
    said = " ".join(
        str(value) for finding in findings(found) for value in vars_of(finding)
    )
    for row in found.exposed:
        assert row.text not in said


def vars_of(finding):
    return [finding.tried, finding.found, finding.means, finding.do]


def test_duplicates_are_counted(by_heart):
    records = remembered()[0]
    result = tried(by_heart, [*records, records[3], records[3]], notes(24, seed=2))
    times = {row.where: row.times for row in result.exposed}
    assert {where for where, count in times.items() if count == 3} == {
        "line 4", "line 25", "line 26",
    }  # fmt: skip


def test_persons_are_tried_with_all_their_records(by_heart):
    """A person is found by the records that tuning takes, however many there are."""

    def of_persons(records, name):
        return [replace(r, person=f"{name}{i // 3}") for i, r in enumerate(records)]

    plan = replace(
        PLAN,
        kind="local",
        noise_multiplier=5.0,
        delta=1e-5,
        unit="person",
        records_per_person=2,
    )
    own, others = of_persons(remembered()[0], "p"), of_persons(notes(24, seed=2), "q")
    result = tried(by_heart, own, others, plan=plan)
    assert (result.unit, result.members.of) == ("person", 8)
    assert len(result.members.records) == 16
    assert (result.membership.members, result.membership.others) == (8, 8)
    assert result.membership.verdict == "found"
    assert result.extraction.members.tried == 8
    assert "8 persons" in findings(result)[0].tried


def test_nothing_to_score_is_said(by_heart):
    only = notes(1, seed=1)
    with pytest.raises(ConfigError, match="nothing was held out"):
        tried(by_heart, only, only)
