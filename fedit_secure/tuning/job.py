"""One tuning job as data: what the daemon tells the worker that it starts. No torch.

Everything here is plain JSON, so that a plan can never carry code. Unknown fields are
errors: a setting that this version doesn't know (DoRA, data-driven initialisation, an
auxiliary loss) is refused instead of being ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedit_secure.config import Device, Precision, Quantization, Torchrun
from fedit_secure.errors import ConfigError
from fedit_secure.federation.aggregation import BOTH, Factor, length_of, places

DEFAULT_TOKEN_BUDGET = 2048
"""Tokens of one physical batch, padding included. It bounds memory and changes neither
privacy nor result; more is slower on a CPU, whose caches it overruns."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a tuning job is: "loading", "ready" or "tuning", and the steps finished.

    Steps come from the plan alone: they tell nothing about the records.
    """

    phase: str
    step: int = 0
    of: int = 0

    def __str__(self) -> str:
        return f"step {self.step} of {self.of}" if self.of else self.phase


OnProgress = Callable[[Progress], None]

Layout = tuple[tuple[str, tuple[int, ...]], ...]
"""Ordered (key in `adapter_model.safetensors`, shape) of every adapter tensor."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ColumnMap(_Frozen):
    """The columns of a data set that hold the parts of an instruction record.

    `input` and `category` are used where a record has them under their usual names; a
    column that is named otherwise must exist. `person` identifies whom a record is
    about (a patient); None means that the data set doesn't say.
    """

    instruction: str = "instruction"
    input: str | None = "input"
    response: str = "response"
    category: str | None = "category"
    person: str | None = None


class HeldOutSource(_Frozen):
    """Which records are for evaluation alone: a `fraction` of the units, or those at a
    `path` of their own, with the same columns.
    """

    fraction: float | None = Field(default=None, gt=0, lt=1)
    path: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.fraction is None) == (self.path is None):
            raise ValueError("held_out is either a fraction or a path")
        return self


class DataSource(_Frozen):
    """Where a silo's records are: a file, a saved `datasets` folder, or a hub name.

    Files end in .json, .jsonl, .ndjson, .csv or .parquet.
    """

    path: str = Field(min_length=1)
    columns: ColumnMap = ColumnMap()
    split: str = "train"
    held_out: HeldOutSource | None = None


@dataclass(frozen=True, slots=True)
class OwnFigure:
    """A silo's figure on its held-out units, without noise: it stays in the silo.

    `nll`: the mean of the units' mean response NLL in nats, None where none has any;
    over `units`, without those `unscored`.
    """

    nll: float | None
    units: int
    unscored: int


OnFigure = Callable[[OwnFigure], None]


class LoraConfig(_Frozen):
    """The adapter: LoRA on linear layers, A from a seeded Kaiming draw and B zero.

    `targets` is "all-linear" (every linear layer but the output head) or module names.
    `dropout` draws masks for each record by itself (see `tuning.dropout`).
    """

    rank: int = Field(default=8, ge=1, le=4096)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"

    @model_validator(mode="after")
    def _some_target(self) -> Self:
        if not self.targets:
            raise ValueError("targets is empty: name at least one module")
        return self


class OptimizerConfig(_Frozen):
    """AdamW or SGD, fresh at the start of every round; learning rate per step.

    LoRA's B has `b_rate_ratio` times the rate of A (LoRA+, arXiv 2402.12354). `proximal`
    is FedProx's mu (arXiv 1812.06127).
    """

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[
        Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]
    ] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    b_rate_ratio: float = Field(default=1.0, gt=0, le=1e3)
    proximal: float = Field(default=0.0, ge=0, le=1e3)


class TuneJob(_Frozen):
    """Everything that one round of local tuning needs, but the noise key.

    `model` is a folder or a hub name; `model_digest` (64 hex characters, see
    `base_model.base_model_digest`) and `template_digest` are checked when given. `plan` is
    `DpPlan.as_dict()`. `state_path` is a safetensors file whose one tensor, `adapter`,
    is the flat float32 vector of the adapter to start from, ordered as `layout`; `tuned` are
    the LoRA factors that this round tunes, null for both, and `kept` those of them that stay
    in the silo.
    `token_budget` null is what free memory allows; `checkpointing` recomputes layers in
    the backward pass instead of keeping their activations. `precision` and
    `quantization` are of the frozen base model; the adapter is always float32.
    `threads` are each process's, of which `torchrun` says how many there are.
    """

    model: str = Field(min_length=1)
    model_digest: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    data: DataSource
    template: str = "alpaca"
    template_digest: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    max_tokens: int = Field(default=512, ge=8)
    train_on_response_only: bool = True
    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig
    plan: dict[str, Any]
    # Public: the charter's digest. It chooses a person's records, see `units.make_units`,
    # and a plan per person needs it.
    unit_key: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    state_path: str
    layout: Layout = Field(min_length=1)
    tuned: tuple[Factor, ...] | None = None
    kept: tuple[Factor, ...] = ()
    token_budget: int | None = Field(default=None, ge=1)
    checkpointing: bool = False
    threads: int = Field(default=1, ge=1, le=1024)
    device: Device = "cpu"
    precision: Precision = "float32"
    quantization: Quantization = "none"
    torchrun: Torchrun = Torchrun()

    @property
    def length(self) -> int:
        """Coordinates of the adapter."""
        return layout_length(self.layout)

    @property
    def update_length(self) -> int:
        """Coordinates of what the job yields for release: the update, and last its
        evaluation's."""
        released = [f for f in self.tuned or BOTH if f not in self.kept]
        evaluates = self.plan.get("evaluation") is not None
        return length_of(places(self.layout, released)) + evaluates

    @property
    def kept_length(self) -> int:
        """Coordinates of what it yields beside that, for the silo alone."""
        return length_of(places(self.layout, self.kept)) if self.kept else 0

    def to_json(self) -> str:
        """The job on one line of JSON."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str | bytes) -> TuneJob:
        """Parse `to_json`'s line. Raises ConfigError that names the first bad field."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as wrong:
            first = wrong.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the document"
            raise ConfigError(f"tuning job: {where}: {first['msg']}") from None

    def write(self, path: Path) -> None:
        """Write the job as a file of one line of JSON."""
        path.write_text(self.to_json() + "\n", encoding="utf-8")


def layout_length(layout: Layout) -> int:
    """Coordinates of a flat vector that is ordered as `layout`."""
    return sum(math.prod(shape) for _, shape in layout)
