"""From a silo's configuration and the charter to one tuning job."""

from __future__ import annotations

from pathlib import Path

from safetensors.numpy import save

from fedit_secure.config import SiloConfig
from fedit_secure.federation.aggregation import factors, kept_factors
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.durable import make_folder, require_room, write_durably
from fedit_secure.federation.update import GridState, to_float32
from fedit_secure.silo.personal import Personal
from fedit_secure.tuning.job import DataSource, LoraConfig, OptimizerConfig, TuneJob

# In adapters of float32: the state to start from, the update, and the next state, which
# has 8 bytes a coordinate and lies beside the last one.
_WRITTEN = 1 + 1 + 2
_PERSONAL = 1 + 1  # the silo's own B, and its adapter, beside the last ones
_BESIDE = 1 << 20  # the ledger's few lines, and what its commits take for a moment


def round_bytes(charter: Charter) -> int:
    """What a round of this charter writes to the disk, in bytes."""
    personal = bool(kept_factors(charter.adapter.aggregation))
    written = _WRITTEN + (_PERSONAL if personal else 0)
    return 4 * written * charter.length + _BESIDE


def tune_job(
    config: SiloConfig,
    charter: Charter,
    round: int,
    state: GridState,
    folder: Path,
    personal: Personal | None = None,
) -> TuneJob:
    """The job of one round: what to tune is the charter's, on which data the silo's.

    `folder` takes the state that it starts from, with the silo's own B where it has one.
    Raises StorageError if it can't, or if
    the disk hasn't room for what the round will write: tuned and charged, it is too late.
    """
    aggregation = charter.adapter.aggregation
    adapter = to_float32(state) if personal is None else personal.whole(state)
    make_folder(folder)
    require_room(folder, round_bytes(charter))
    state_path, budget = folder / "state.safetensors", config.token_budget
    mode = 0o644 if personal is None else 0o600
    write_durably(state_path, save({"adapter": adapter}), mode=mode)
    return TuneJob(
        model=config.model,
        model_digest=charter.base_model.digest,
        data=DataSource.model_validate(config.data.model_dump()),
        template=charter.template.name,
        template_digest=charter.template.digest,
        max_tokens=charter.max_tokens,
        lora=lora_of(charter),
        optimizer=optimizer_of(charter, round),
        plan=charter.plan_for(config.name).as_dict(),
        unit_key=charter.digest().hex(),
        state_path=str(state_path),
        layout=charter.adapter.layout,
        tuned=aggregation and factors(aggregation, round),
        kept=kept_factors(aggregation),
        token_budget=budget if isinstance(budget, int) else None,
        checkpointing=config.checkpointing,
        threads=max(1, config.threads // config.torchrun.processes),
        device=config.device,
        precision=config.precision,
        quantization=config.quantization,
        torchrun=config.torchrun,
    )


def lora_of(charter: Charter) -> LoraConfig:
    """The charter's LoRA configuration."""
    adapter = charter.adapter
    return LoraConfig(
        rank=adapter.rank,
        alpha=adapter.alpha,
        dropout=adapter.dropout,
        targets=adapter.targets,
    )


def optimizer_of(charter: Charter, round: int) -> OptimizerConfig:
    """The charter's local optimiser in this round, counted from 1."""
    tuning = charter.tuning
    return OptimizerConfig(
        name=tuning.optimizer,
        learning_rate=tuning.rate_in(round, charter.rounds),
        weight_decay=tuning.weight_decay,
        betas=tuning.betas,
        eps=tuning.eps,
        momentum=tuning.momentum,
        b_rate_ratio=1.0 if tuning.b_rate_ratio is None else tuning.b_rate_ratio,
        proximal=tuning.proximal or 0.0,
    )
