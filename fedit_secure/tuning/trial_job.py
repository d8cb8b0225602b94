"""What a trial of this machine is to try: a tuning job without records. No torch."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedit_secure.config import Device, Precision, Quantization
from fedit_secure.errors import ConfigError
from fedit_secure.federation.document import describe
from fedit_secure.tuning.job import Layout, LoraConfig, OptimizerConfig

STEPS = ("torch", "model", "gradients", "memory", "dry-step")
"""What the trial tries, in this order; each needs the ones before."""


class TrialJob(BaseModel):
    """As `TuneJob`, but for what has to do with records, rounds and budgets.

    `layout` None is before there is a charter: then nothing is held against it, and
    `max_tokens` is at most what the model has positions for. `unit_rows` are the most
    records of one unit. `processes` is how many of a job this host has: the trial is one
    alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    max_tokens: int = Field(default=512, ge=8)
    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3)
    private: bool = True
    layout: Layout | None = None
    unit_rows: int = Field(default=1, ge=1)
    token_budget: int | None = Field(default=None, ge=1)
    checkpointing: bool = False
    threads: int = Field(default=1, ge=1, le=1024)
    processes: int = Field(default=1, ge=1)
    device: Device = "cpu"
    precision: Precision = "float32"
    quantization: Quantization = "none"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Raises ConfigError that names the first bad field."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as wrong:
            raise ConfigError(f"trial job: {describe(wrong.errors()[0])}") from None
