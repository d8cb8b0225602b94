"""The YAML files of each role, read into frozen and validated models.

Precedence: an option, then the environment (FEDIT_SECTION__KEY, for the two daemons'
files), then the file, then the default. Paths are relative to the file's own folder.
Every error is one sentence that names the file, the line and the field.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails

from fedit_secure.errors import ConfigError
from fedit_secure.federation.charter import Count, Lora, Tuning
from fedit_secure.federation.document import (
    Address,
    Line,
    Name,
    Part,
    brief,
    describe,
    dotted,
)
from fedit_secure.federation.drafting import PlannedDp, PlannedSecAgg, RunPlan, Weights
from fedit_secure.federation.durable import read_file
from fedit_secure.federation.lora_options import lora_refusal
from fedit_secure.federation.page import PageConfig
from fedit_secure.federation.policy import Policy

_PREFIX = "FEDIT_"
_MOST_NODES = 100_000  # of one file, where an alias counts as all that it stands for
# What PyYAML's constructors raise for tagged or unfinished values, beside its own errors.
_NOT_YAML = (
    yaml.YAMLError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
_PathOfData = tuple[str | int, ...]
_Model = TypeVar("_Model", bound=BaseModel)


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


class DataConfig(Part):
    """A file, a saved `datasets` folder or a hub name, and its columns."""

    path: PathOrHub
    columns: Columns = Columns()
    split: str = "train"


class SiloConfig(Part):
    """silo.yaml. `token_budget`, `checkpointing` and `threads` bound memory and cores, not
    privacy; "auto" is what free memory allows.

    `device` auto is CUDA where there is one. `precision` and `quantization` are of the
    frozen base model in memory: the silo's own choice, whatever the others have.
    """

    name: Name
    identity: LocalPath
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
    log_level: LogLevel = "info"
    page: PageConfig | None = None


class AggregatorConfig(Part):
    """aggregator.yaml. `hostnames` are what its certificate names beside its own name.

    `base_model` (a name or folder) is written into saved adapters, for PEFT to find.
    """

    identity: LocalPath
    state: LocalPath
    charter: LocalPath
    approvals: LocalPath
    initial_state: LocalPath
    listen: Address
    hostnames: tuple[Line, ...] = ()
    base_model: PathOrHub | None = None
    log_level: LogLevel = "info"
    page: PageConfig | None = None


class PlanFile(RunPlan):
    """plan.yaml: the coordinator's plan, its paths relative to the file."""

    base_model: PathOrHub
    predecessor: LocalPath | None = None
    initial_state: LocalPath | None = None


class SimulationConfig(Part):
    """simulation.yaml: a run in one process. `data` names the silos and their records."""

    base_model: PathOrHub
    data: Annotated[dict[Name, DataConfig], Field(min_length=2)]
    output: LocalPath
    template: Line = "alpaca"
    max_tokens: Annotated[int, Field(ge=8, le=1 << 20)] = 512
    lora: Lora = Lora()
    tuning: Tuning
    rounds: Count
    dp: PlannedDp
    secagg: PlannedSecAgg = PlannedSecAgg()
    weights: Weights = "equal"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    threads: Annotated[int, Field(ge=1, le=1024)] = os.cpu_count() or 1
    token_budget: Annotated[int, Field(ge=1)] = 2048


def load_silo_config(
    path: Path, options: Mapping[str, Any] | None = None
) -> SiloConfig:
    """Reads silo.yaml; `options` are dotted keys that win over everything.

    Raises ConfigError.
    """
    return _load(SiloConfig, path, options or {}, _environment(SiloConfig))


def load_aggregator_config(
    path: Path, options: Mapping[str, Any] | None = None
) -> AggregatorConfig:
    """Reads aggregator.yaml; `options` are dotted keys that win over everything.

    Raises ConfigError.
    """
    return _load(AggregatorConfig, path, options or {}, _environment(AggregatorConfig))


def role_of(path: Path) -> Literal["silo", "aggregator"]:
    """Whose configuration a file is, by the keys that only one of them has.

    Raises ConfigError if it can't be read, or has as many of the one as of the other.
    """
    keys = set(_read_yaml(path)[0])
    silo, aggregator = set(SiloConfig.model_fields), set(AggregatorConfig.model_fields)
    more = len(keys & (silo - aggregator)) - len(keys & (aggregator - silo))
    if not more:
        raise ConfigError(f"{path} is neither a silo.yaml nor an aggregator.yaml")
    return "silo" if more > 0 else "aggregator"


def load_policy(path: Path) -> Policy:
    """Reads policy.yaml. Raises ConfigError."""
    return _load(Policy, path, {}, {})


def load_plan(path: Path) -> PlanFile:
    """Reads a coordinator's plan.yaml. Raises ConfigError."""
    return _load(PlanFile, path, {}, {})


def load_simulation(
    path: Path, options: Mapping[str, Any] | None = None
) -> SimulationConfig:
    """Reads simulation.yaml; `options` are dotted keys that win. Raises ConfigError."""
    return _load(SimulationConfig, path, options or {}, {})


def _environment(model: type[BaseModel]) -> dict[str, str]:
    """The FEDIT_* variables for this role, by dotted key.

    A variable that no role knows is refused: a misspelt one would change nothing.
    """
    known = set(SiloConfig.model_fields) | set(AggregatorConfig.model_fields)
    found = {}
    for variable, value in sorted(os.environ.items()):
        if not variable.startswith(_PREFIX):
            continue
        key = variable.removeprefix(_PREFIX).lower().replace("__", ".")
        section = key.split(".")[0]
        if section not in known:
            near = get_close_matches(section, known, 1)
            hint = f" (did you mean {_PREFIX}{near[0].upper()}?)" if near else ""
            raise ConfigError(f"the environment variable {variable} is unknown{hint}")
        if section in model.model_fields:
            found[key] = value
    return found


def _load(
    model: type[_Model],
    path: Path,
    options: Mapping[str, Any],
    environment: Mapping[str, str],
) -> _Model:
    data, origins = _read_yaml(path)
    for key, text in environment.items():
        variable = _PREFIX + key.upper().replace(".", "__")
        _put(data, origins, key, _from_environment(text, variable), variable)
    for key, value in options.items():
        _put(data, origins, key, value, f"the option for {key}")
    try:
        return model.model_validate(data, context={"folder": path.parent})
    except ValidationError as error:
        raise ConfigError(_sentence(model, path, origins, error)) from error


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[_PathOfData, str]]:
    """The file's mapping, and for each place in it where it was written."""
    text = read_file(path, "file", limit=4 << 20)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            raise ConfigError(f"{path} is empty")
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path} doesn't hold keys with values")
        origins: dict[_PathOfData, str] = {}
        _note_lines(path, node, (), origins)
        data: dict[str, Any] = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: {brief(str(error.problem))}") from error
    except _NOT_YAML as error:
        raise ConfigError(f"{path} isn't YAML text") from error
    return data, origins


def _note_lines(
    path: Path, node: yaml.Node, at: _PathOfData, origins: dict[_PathOfData, str]
) -> None:
    origins.setdefault(at, f"{path} line {node.start_mark.line + 1}")
    if len(origins) > _MOST_NODES:
        raise ConfigError(f"{path} holds more than {_MOST_NODES} values")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*at, str(key.value))
            where = f"{path} line {key.start_mark.line + 1}"
            if place in origins:
                said = brief(place[-1])
                raise ConfigError(f"{where}: the key {said!r} is there twice")
            origins[place] = where
            _note_lines(path, value, place, origins)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _note_lines(path, value, (*at, index), origins)


def _from_environment(text: str, variable: str) -> Any:
    # Plain text stays text: the model turns it into a number where it wants one.
    if not text.startswith(("[", "{")):
        return text
    try:
        return yaml.safe_load(text)
    except _NOT_YAML as error:
        raise ConfigError(f"{variable} isn't a YAML list or mapping") from error


def _put(
    data: dict[str, Any],
    origins: dict[_PathOfData, str],
    key: str,
    value: Any,
    origin: str,
) -> None:
    *sections, last = key.split(".")
    inner = data
    for section in sections:
        if not isinstance(inner.get(section), dict):
            inner[section] = {}
        inner = inner[section]
    inner[last] = value
    origins[(*sections, last)] = origin


def _sentence(
    model: type[BaseModel],
    path: Path,
    origins: Mapping[_PathOfData, str],
    error: ValidationError,
) -> str:
    # An unknown key is usually the misspelt twin of a missing one, so it comes first;
    # then the deepest, because a union reports each branch that doesn't fit.
    placed = [(_place(problem, origins), problem) for problem in error.errors()]
    place, problem = min(
        placed, key=lambda p: (p[1]["type"] != "extra_forbidden", -len(p[0]))
    )
    origin = origins[place]
    if problem["type"] == "extra_forbidden":
        if place[:-1] == ("lora",):
            reason = lora_refusal(str(place[-1]), problem["input"])
            if reason is not None:
                return f"{origin}: the key {brief(dotted(place))!r} {reason}"
        near = get_close_matches(str(place[-1]), _fields(model, place[:-1]), 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{origin}: the key {brief(dotted(place))!r} is unknown{hint}"
    if problem["type"] == "missing":
        missing = dotted((*place, problem["loc"][-1]))
        return f"{origin if place else path}: the key {missing!r} is missing"
    return f"{origin}: {describe({**problem, 'loc': place})}"


def _place(problem: ErrorDetails, origins: Mapping[_PathOfData, str]) -> _PathOfData:
    """The parts of an error's location that are a place in the file.

    Pydantic puts the branches of unions and the names of validators in between.
    """
    place: _PathOfData = ()
    for part in problem["loc"]:
        if (*place, part) in origins:
            place = (*place, part)
    return place


def _fields(model: type[BaseModel], place: _PathOfData) -> list[str]:
    """The keys that the section at `place` may have."""
    inner: type[BaseModel] | None = model
    for part in place:
        field = inner.model_fields.get(str(part)) if inner else None
        inner = _model_in(field.annotation) if field else inner
    fields = inner.model_fields.items() if inner else ()
    return [field.alias or name for name, field in fields]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(part) for part in get_args(annotation))
    return next((part for part in found if part), None)
