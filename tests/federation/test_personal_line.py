"""What drafting says of silos that keep a B of their own."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from fedit_secure.cli.charter_facts import charter_facts
from fedit_secure.errors import ConfigError
from fedit_secure.federation.charter import BaseModelRow, Charter

FEDSA = {"aggregation": "fedsa"}
NO_DP = {"kind": "none", "expected_batch": 64}  # no calibration, which takes a while


def test_one_local_step_is_refused_because_it_would_release_noise_alone(
    make_plan, make_charter, cards
) -> None:
    tuning = {"learning_rate": 1e-3, "local_steps": 1}
    with pytest.raises(ConfigError, match=r"'tuning\.local_steps' is 1, and .* fedsa"):
        make_charter(make_plan(lora=FEDSA, tuning=tuning, dp=NO_DP), cards)
    assert (
        make_charter(make_plan(tuning=tuning, dp=NO_DP), cards).tuning.local_steps == 1
    )


def test_b_moves_no_bound_of_a_release_without_it(
    make_plan, make_charter, cards
) -> None:
    tuning = {"learning_rate": 1e-3, "local_steps": 8, "b_rate_ratio": 16}
    bounds = [
        make_charter(make_plan(lora=lora, tuning=tuning, dp=NO_DP), cards).secagg.bound
        for lora in (FEDSA, {})
    ]
    assert bounds[1] == pytest.approx(16 * bounds[0])


@pytest.fixture(scope="module")
def first(make_plan, make_charter, cards) -> Charter:
    return make_charter(make_plan(lora=FEDSA, dp=NO_DP), cards)


def after(
    before: Charter, make_plan, make_charter, cards, plan: Any = None, **changes: Any
) -> Charter:
    lora = {"lora": FEDSA, "dp": NO_DP, **(plan or {})}
    given = {"predecessor": before, "goes_on": True, **changes}
    charter: Charter = make_charter(make_plan(**lora), cards, **given)
    return charter


def test_a_state_that_goes_on_brings_each_silos_b_along(
    first: Charter, make_plan, make_charter, cards
) -> None:
    assert first.adapter.personal_since is None
    assert "personal_since" not in first.to_bytes().decode()
    second = after(first, make_plan, make_charter, cards)
    third = after(second, make_plan, make_charter, cards)
    assert (second.adapter.personal_since, third.adapter.personal_since) == (1, 1)
    assert Charter.from_bytes(third.to_bytes(), "charter.json") == third
    told = [charter_facts(charter)["aggregation"] for charter in (first, third)]
    begins = "fedsa: A is summed; each silo keeps a B, which begins with"
    assert told == [f"{begins} the initial state's", f"{begins} its own since epoch 1"]


BREAKS: dict[str, dict[str, Any]] = {
    "drawn anew": {"goes_on": False},
    "another rank": {"plan": {"lora": {**FEDSA, "rank": 4}}},
    "another scale": {"plan": {"lora": {**FEDSA, "alpha": 8.0}}},
    "all is released now": {"plan": {"lora": {}}},
    "another layout": {"layout": (("n.lora_A", (2, 3)), ("n.lora_B", (4, 2)))},
    "another base model": {"base_model": BaseModelRow(name="b", digest="ef" * 32)},
}


@pytest.mark.parametrize("why", BREAKS)
def test_where_another_line_begins_no_b_goes_along(
    first: Charter, make_plan, make_charter, cards, why: str
) -> None:
    second = after(first, make_plan, make_charter, cards, **BREAKS[why])
    assert second.adapter.personal_since is None
    if second.adapter.aggregation == "fedsa" and why == "drawn anew":
        third = after(second, make_plan, make_charter, cards)
        assert third.adapter.personal_since == 2


def test_no_b_goes_along_from_an_epoch_that_kept_none(
    charter: Charter, make_plan, make_charter, cards
) -> None:
    second = after(charter, make_plan, make_charter, cards)
    assert second.adapter.personal_since is None


@pytest.mark.parametrize(
    ("adapter", "epoch", "why"),
    [
        ({"personal_since": 1}, 1, "isn't an earlier epoch"),
        ({"personal_since": 2}, 2, "isn't an earlier epoch"),
        ({"personal_since": 0}, 2, "greater than or equal to 1"),
        ({"personal_since": 1, "aggregation": "ffa"}, 2, "is for aggregation fedsa"),
    ],
)
def test_a_line_that_cant_be_is_refused(
    first: Charter, adapter: dict[str, Any], epoch: int, why: str
) -> None:
    content = first.model_dump(mode="json")
    content |= {"epoch": epoch, "predecessor": "ab" * 32 if epoch > 1 else None}
    content["adapter"] |= adapter
    with pytest.raises(ValidationError, match=why):
        Charter.model_validate(content)
