"""An option of LoRA that can't be had is refused by its name, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedit_secure.config import load_plan
from fedit_secure.errors import ConfigError
from fedit_secure.federation.local_plan import Lora
from fedit_secure.federation.lora_options import REASONS

PLAN = """\
federation: north
run: first
aggregator: hub.example.org:7443
base_model: base
rounds: 3
expires: 2027-01-31
tuning: {learning_rate: 0.001, local_steps: 4}
dp: {epsilon: 8, delta: 1e-6, expected_batch: 8}
lora:
  rank: 8
  OPTION
"""

CASES = [
    ("use_dora: true", "DoRA's magnitudes have no gradient per record"),
    ("lora_bias: true", "a bias isn't tuned per record"),
    ("modules_to_save: [lm_head]", "a row per token"),
    ("trainable_token_indices: [1]", "a row per token"),
    ("target_parameters: [experts]", "experts see single tokens"),
    ("layer_replication: [[0, 2]]", "it builds another model"),
    ("use_rslora: true", "it only scales"),
    ("init_lora_weights: eva", "can't be eva: EVA reads records before the"),
    ("init_lora_weights: corda", "can't be corda: CorDA reads records"),
    ("init_lora_weights: lora_ga", "can't be lora_ga: LoRA-GA reads records"),
    ("init_lora_weights: PiSSA_niter_4", "can't be pissa: PiSSA changes the"),
    ("init_lora_weights: olora", "can't be olora: OLoRA changes the base"),
    ("init_lora_weights: loftq", "can't be loftq: LoftQ changes the base"),
    ("init_lora_weights: gaussian", "A begins as init says, random"),
    ("init_lora_weights: false", "A begins as init says, random"),
    ("eva_config: {rho: 2}", "EVA reads records"),
    ("r: 8", "it is called rank"),
    ("target_modules: all-linear", "it is called targets"),
    ("peft_type: VERA", "only LoRA is known"),
]


@pytest.mark.parametrize(("option", "reason"), CASES)
def test_a_plan_is_told_why(option: str, reason: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN.replace("OPTION", option))
    name = option.split(":", maxsplit=1)[0]
    said = rf"plan\.yaml line 11: the key 'lora\.{name}' .*{reason}"
    with pytest.raises(ConfigError, match=said) as caught:
        load_plan(plan)
    assert "\n" not in str(caught.value)


def test_another_unknown_key_is_still_unknown(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN.replace("OPTION", "rnak: 4"))
    with pytest.raises(ConfigError, match=r"'lora\.rnak' is unknown; did you mean"):
        load_plan(plan)


def test_no_reason_hides_an_option_that_exists() -> None:
    assert not set(REASONS) & set(Lora.model_fields)
