"""The sizes of the demo, in one place. No torch.

Chosen on other seeds than those that `benchmarks/demo_seeds.py` reports, so that the
whole demo ends within three minutes on two cores. Two levers matter: few, large logical
batches (the noise per step falls with the batch), and adapters on the upper layers alone
(half the backward pass, and fewer coordinates to be noised).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedit_secure.privacy.plan import DpPlan
from fedit_secure.tuning.job import LoraConfig, OptimizerConfig


@dataclass(frozen=True, slots=True)
class DemoSizes:
    """What a demo's plan says; defaults are the packaged demo's."""

    rounds: int = 3
    epsilon: float = 8.0
    delta: float = 1e-5
    spare_charges: int = 1
    clip: float = 1.0
    expected_batch: int = 128
    local_steps: int = 8
    learning_rate: float = 2e-2
    rank: int = 2
    alpha: float = 8.0
    targets: tuple[str, ...] | Literal["all-linear"] = (
        "layers.2.self_attn.q_proj",
        "layers.2.self_attn.k_proj",
        "layers.2.self_attn.v_proj",
        "layers.2.self_attn.o_proj",
        "layers.2.mlp.gate_proj",
        "layers.2.mlp.up_proj",
        "layers.2.mlp.down_proj",
        "layers.3.self_attn.q_proj",
        "layers.3.self_attn.k_proj",
        "layers.3.self_attn.v_proj",
        "layers.3.self_attn.o_proj",
        "layers.3.mlp.gate_proj",
        "layers.3.mlp.up_proj",
        "layers.3.mlp.down_proj",
    )
    max_tokens: int = 64

    def lora(self) -> LoraConfig:
        """The adapter."""
        return LoraConfig(rank=self.rank, alpha=self.alpha, targets=self.targets)

    def optimizer(self) -> OptimizerConfig:
        """AdamW with its usual betas."""
        return OptimizerConfig(learning_rate=self.learning_rate)

    def plan(self, records: int) -> DpPlan:
        """The plan of a silo that holds `records` records: q = expected batch over them.

        Raises:
            ValueError: there are fewer records than the expected batch.
        """
        return DpPlan.create(
            target_epsilon=self.epsilon,
            delta=self.delta,
            sample_rate=self.expected_batch / records,
            clip=self.clip,
            expected_batch=self.expected_batch,
            local_steps=self.local_steps,
            rounds=self.rounds,
            spare_charges=self.spare_charges,
        )


DEMO = DemoSizes()
