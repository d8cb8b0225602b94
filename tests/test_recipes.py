"""The recipes of docs/tuning.md are those that the benchmarks measure, and fit a plan."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from _arms import Recipe
from _recipes import FEDIT, PRIVATE

from fedit_secure.federation.run_plan import RunTerms

GUIDE = (Path(__file__).parents[1] / "docs" / "tuning.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "recipe"), [("without dp", FEDIT), ("private", PRIVATE)]
)
def test_the_guide_tells_what_was_measured(name: str, recipe: Recipe) -> None:
    found = re.search(rf"<!-- recipe: {name} -->\n```yaml\n(.*?)```", GUIDE, re.DOTALL)
    assert found is not None
    told = yaml.safe_load(found[1])
    batch = {"expected_batch": recipe.batch, "clip": recipe.clip, "kind": "none"}
    plan = RunTerms(base_model="model", dp=batch, **told)
    assert (plan.rounds, plan.tuning.local_steps) == (recipe.rounds, recipe.steps)
    assert plan.tuning.optimizer == recipe.optimizer
    assert plan.tuning.learning_rate == recipe.rate
    assert (plan.lora.rank, plan.lora.alpha) == (recipe.rank, 2 * recipe.rank)
    assert plan.lora.aggregation == recipe.aggregation
    assert plan.lora.init == recipe.init
    assert (plan.weights == "records") is recipe.by_records
    rule = {"name": recipe.rule, "learning_rate": recipe.server_rate, "tau": recipe.tau}
    assert plan.update_rule.model_dump(include=set(rule)) == rule
