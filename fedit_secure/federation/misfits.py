"""Why a file doesn't fit its model, in one sentence that names file, line and field."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fedit_secure.federation.document import brief, describe, dotted
from fedit_secure.federation.lora_options import lora_refusal
from fedit_secure.federation.yaml_text import PathOfData


def sentence(
    model: type[BaseModel],
    path: Path,
    origins: Mapping[PathOfData, str],
    error: ValidationError,
) -> str:
    """The sentence for the likeliest of an error's causes; `origins` says what was written
    where.
    """
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


def _place(problem: ErrorDetails, origins: Mapping[PathOfData, str]) -> PathOfData:
    """The parts of an error's location that are a place in the file.

    Pydantic puts the branches of unions and the names of validators in between.
    """
    place: PathOfData = ()
    for part in problem["loc"]:
        if (*place, part) in origins:
            place = (*place, part)
    return place


def _fields(model: type[BaseModel], place: PathOfData) -> list[str]:
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
