"""The YAML files of each role, read into frozen and validated models.

Precedence: an option, then the environment (FEDIT_SECTION__KEY, for the two daemons'
files), then the file, then the default. Paths are relative to the file's own folder.
Every error is one sentence that names the file, the line and the field. Secrets are never
settings: a setting names the file that holds one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, ValidationInfo, model_validator

from fedit_secure.errors import ConfigError, PlanMisfit
from fedit_secure.federation.charter import Schedule
from fedit_secure.federation.document import Address, Line, Name, Part
from fedit_secure.federation.page import PageConfig
from fedit_secure.federation.passphrase import Passphrase, read_passphrase
from fedit_secure.federation.policy import Policy
from fedit_secure.federation.run_plan import RunPlan, RunTerms
from fedit_secure.federation.settings import Setting, Settings

_PREFIX = "FEDIT_"


def _located(path: Path, info: ValidationInfo) -> Path:
    folder: Path = (info.context or {}).get("folder", Path())
    return folder / path.expanduser()


def _found(text: str, info: ValidationInfo) -> str:
    """A path if it looks like one or exists; otherwise a hub name, left alone."""
    located = _located(Path(text), info)
    if text.startswith((".", "/", "~")) or located.exists():
        return str(located)
    return text


LocalPath = Annotated[Path, AfterValidator(_located)]
PathOrHub = Annotated[str, Field(min_length=1), AfterValidator(_found)]
LogLevel = Literal["debug", "info", "warning", "error"]
Device = Literal["cpu", "cuda", "auto"]
Precision = Literal["float32", "bfloat16"]
Quantization = Literal["none", "int8", "nf4"]


class AggregatorLink(Part):
    """How a silo reaches the aggregator; no `address` means the charter's."""

    address: Address | None = None


class Columns(Part):
    """The columns of the data set; `person` identifies whom a record is about."""

    instruction: str = "instruction"
    input: str | None = "input"
    response: str = "response"
    category: str | None = "category"
    person: str | None = None


class HeldOutConfig(Part):
    """Which records are never tuned on: a `fraction` of the units, by person where the
    columns name persons, or those at a `path` of their own."""

    fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    path: PathOrHub | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.fraction is None) == (self.path is None):
            raise ValueError("held_out is either a fraction or a path")
        return self


class DataConfig(Part):
    """A file, a saved `datasets` folder or a hub name, and its columns."""

    path: PathOrHub
    columns: Columns = Columns()
    split: str = "train"
    held_out: HeldOutConfig | None = None


class Torchrun(Part):
    """The processes of one tuning job: `processes` on each of `hosts`.

    More hosts than one meet at `endpoint`, an address of the one whose daemon this is.
    `shard` splits the base model over all of them. A process that says nothing for
    `patience_seconds` counts as lost.
    """

    processes: Annotated[int, Field(ge=1, le=64)] = 1
    hosts: Annotated[int, Field(ge=1, le=64)] = 1
    endpoint: Address | None = None
    shard: bool = False
    patience_seconds: Annotated[int, Field(ge=1, le=7 * 86_400)] = 1800

    @property
    def ranks(self) -> int:
        """All processes of a job."""
        return self.processes * self.hosts

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.hosts > 1) != (self.endpoint is not None):
            raise ValueError(
                "two hosts or more need an endpoint, and only they have one"
            )
        if self.shard and self.ranks == 1:
            raise ValueError("shard needs two processes or more")
        return self


class SiloConfig(Part):
    """silo.yaml. `token_budget`, `checkpointing` and `threads` bound memory and cores, not
    privacy; "auto" is what free memory allows. `passphrase_file` opens encrypted keys.

    `device` auto is CUDA where there is one. `precision` and `quantization` are of the
    frozen base model in memory: the silo's own choice, whatever the others have.
    """

    name: Name
    identity: LocalPath
    passphrase_file: LocalPath | None = None
    state: LocalPath
    charter: LocalPath
    approval: LocalPath
    policy: LocalPath
    data: DataConfig
    model: PathOrHub
    aggregator: AggregatorLink = AggregatorLink()
    device: Device = "cpu"
    precision: Precision = "float32"
    quantization: Quantization = "none"
    threads: Annotated[int, Field(ge=1, le=1024)] = os.cpu_count() or 1
    token_budget: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"  # noqa: S105
    checkpointing: bool = False
    torchrun: Torchrun = Torchrun()
    log_level: LogLevel = "info"
    page: PageConfig | None = None

    @model_validator(mode="after")
    def _scores_alone(self) -> Self:
        if self.torchrun.shard and self.data.held_out is not None:
            raise ValueError(
                "torchrun.shard goes without data.held_out: one process alone scores the "
                "held-out records, and has a part of the base model only"
            )
        return self


class AggregatorConfig(Part):
    """aggregator.yaml. `hostnames` are what its certificate names beside its own name.

    `base_model` (a name or folder) is written into saved adapters, for PEFT to find.
    `health` is where `grpc.health.v1` is answered, in the clear; nowhere by default.
    """

    identity: LocalPath
    passphrase_file: LocalPath | None = None
    state: LocalPath
    charter: LocalPath
    approvals: LocalPath
    initial_state: LocalPath
    listen: Address
    hostnames: tuple[Line, ...] = ()
    health: Address | None = None
    base_model: PathOrHub | None = None
    log_level: LogLevel = "info"
    page: PageConfig | None = None


class PlanFile(RunPlan):
    """plan.yaml: the coordinator's plan, its paths relative to the file.

    `initial_state`: a state's file, the run folder of the predecessor, or "drawn".
    """

    base_model: PathOrHub
    predecessor: LocalPath | None = None
    initial_state: Literal["drawn"] | LocalPath | None = None


class SimulationConfig(RunTerms):
    """simulation.yaml: a run in one process. `data` names the silos and their records.

    `held_out` are records of which every round's adapter is scored. The ready slot is
    short, because no party's times have to be hidden from another.
    """

    base_model: PathOrHub
    data: Annotated[dict[Name, DataConfig], Field(min_length=2)]
    output: LocalPath
    held_out: DataConfig | None = None
    schedule: Schedule = Schedule(ready_slot_seconds=0.01)
    threads: Annotated[int, Field(ge=1, le=1024)] = os.cpu_count() or 1
    token_budget: Annotated[int, Field(ge=1)] = 2048


_DAEMONS = (SiloConfig, AggregatorConfig)
KINDS: dict[str, type[BaseModel]] = {
    "silo": SiloConfig,
    "aggregator": AggregatorConfig,
    "policy": Policy,
    "plan": PlanFile,
    "simulation": SimulationConfig,
}
"""The files, by the name that each goes by before its .yaml."""


def load_silo_config(
    path: Path, options: Mapping[str, Any] | None = None
) -> SiloConfig:
    """Reads silo.yaml; `options` are dotted keys that win over everything.

    Raises ConfigError.
    """
    return _settings(SiloConfig, path, options).fit(SiloConfig)


def load_aggregator_config(
    path: Path, options: Mapping[str, Any] | None = None
) -> AggregatorConfig:
    """Reads aggregator.yaml; `options` are dotted keys that win over everything.

    Raises ConfigError.
    """
    return _settings(AggregatorConfig, path, options).fit(AggregatorConfig)


def load_policy(path: Path) -> Policy:
    """Reads policy.yaml. Raises ConfigError."""
    return _settings(Policy, path).fit(Policy)


def load_plan(path: Path) -> PlanFile:
    """Reads a coordinator's plan.yaml. Raises ConfigError."""
    return _settings(PlanFile, path).fit(PlanFile)


@contextmanager
def misfits_of(path: Path) -> Iterator[None]:
    """What doesn't fit the plan of this file turns into a ConfigError that names its line."""
    try:
        yield
    except PlanMisfit as wrong:
        place = _settings(PlanFile, path).where(wrong.field)
        raise ConfigError(f"{place}: {wrong}") from wrong


def load_simulation(
    path: Path, options: Mapping[str, Any] | None = None
) -> SimulationConfig:
    """Reads simulation.yaml; `options` are dotted keys that win. Raises ConfigError."""
    return _settings(SimulationConfig, path, options).fit(SimulationConfig)


def settings_in_effect(
    path: Path, kind: str, options: Mapping[str, str] | None = None
) -> tuple[BaseModel, list[Setting]]:
    """A file of one of KINDS, and every setting of it with its origin.

    `options` are dotted keys whose texts win. Raises ConfigError.
    """
    model = KINDS[kind]
    settings = _settings(model, path)
    for key, text in (options or {}).items():
        settings.put_text(key, text, f"option {key}")
    fitted = settings.fit(model)
    return fitted, settings.in_effect(fitted)


def role_of(path: Path) -> Literal["silo", "aggregator"]:
    """Whose configuration a file is, by the keys that only one of them has.

    Raises ConfigError if it can't be read, or has as many of the one as of the other.
    """
    kind = _likeliest(path, ("silo", "aggregator"))
    if kind is None:
        raise ConfigError(f"{path} is neither a silo.yaml nor an aggregator.yaml")
    return "silo" if kind == "silo" else "aggregator"


def passphrase_of(config: SiloConfig | AggregatorConfig) -> Passphrase | None:
    """Of the party's keys: from the file that is named, or from the service manager's
    credential fedit-passphrase; None if there is neither. Raises ConfigError.
    """
    if config.passphrase_file is not None:
        return read_passphrase(config.passphrase_file)
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(credentials) / "fedit-passphrase" if credentials else None
    if path is None or not path.exists():
        return None
    return read_passphrase(path, own=False)


def kind_of(path: Path) -> str:
    """Which of KINDS a file is, by its keys. Raises ConfigError where they don't tell."""
    kind = _likeliest(path, tuple(KINDS))
    if kind is None:
        raise ConfigError(
            f"the keys of {path} don't tell which file it is: say --kind "
            f"{', '.join(KINDS)}"
        )
    return kind


def _likeliest(path: Path, kinds: Sequence[str]) -> str | None:
    keys = Settings(path).sections
    fits = {kind: len(keys & set(KINDS[kind].model_fields)) for kind in kinds}
    best = max(fits.values())
    found = [kind for kind, fit in fits.items() if fit == best]
    return found[0] if len(found) == 1 else None


def _settings(
    model: type[BaseModel], path: Path, options: Mapping[str, Any] | None = None
) -> Settings:
    settings = Settings(path)
    if model in _DAEMONS:
        for key, (variable, text) in _environment(model).items():
            settings.put_text(key, text, variable)
    for key, value in (options or {}).items():
        settings.put(key, value, f"the option for {key}")
    return settings


def proxy_variables() -> dict[str, str]:
    """The environment's variables about proxies, for `wire.proxy.proxy_for`."""
    return {k: v for k, v in os.environ.items() if k.lower().endswith("_proxy")}


def _environment(model: type[BaseModel]) -> dict[str, tuple[str, str]]:
    """The FEDIT_* variables for this role and their texts, by dotted key.

    A variable that no role knows is refused: a misspelt one would change nothing.
    """
    known = {section for daemon in _DAEMONS for section in daemon.model_fields}
    found = {}
    for variable, text in sorted(os.environ.items()):
        if not variable.startswith(_PREFIX):
            continue
        key = variable.removeprefix(_PREFIX).lower().replace("__", ".")
        section = key.split(".")[0]
        if section not in known:
            near = get_close_matches(section, known, 1)
            hint = f" (did you mean {_PREFIX}{near[0].upper()}?)" if near else ""
            raise ConfigError(f"the environment variable {variable} is unknown{hint}")
        if section in model.model_fields:
            found[key] = (variable, text)
    return found
