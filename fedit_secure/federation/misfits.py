"""Why a file doesn't fit its model, in one sentence that names file, line and field."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fedit_secure.federation.document import PATTERNS_IN_WORDS, brief, describe, dotted
from fedit_secure.federation.lora_options import lora_refusal
from fedit_secure.federation.yaml_text import PathOfData, Written

_MOST_SAID = 60  # characters of a value that a sentence quotes
_WANTED = {
    "model_type": "a section of keys",
    "model_attributes_type": "a section of keys",
    "dict_type": "a section of keys",
    "tuple_type": "a list",
    "string_type": "a text",
    "path_type": "a path",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "date_type": "a date like 2027-12-31",
    "date_parsing": "a date like 2027-12-31",
    "date_from_datetime_parsing": "a date like 2027-12-31",
}
_QUOTED = re.compile(r"'([^']*)'")


def sentence(
    model: type[BaseModel],
    path: Path,
    origins: Mapping[PathOfData, Written],
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
        return f"{origin.where}: {_unknown(model, place, problem)}"
    if problem["type"] == "missing":
        missing = dotted((*place, problem["loc"][-1]))
        return f"{origin.where if place else path}: the key {missing!r} is missing"
    # The branches of a union that were tried at this place.
    tried = [
        other for at, other in placed if at == place and other["type"] != "missing"
    ]
    wanted = [words for other in tried if (words := _wanted(other)) is not None]
    if len(wanted) == len(tried):
        choices = " or ".join(dict.fromkeys(wanted))
        reason = f"should be {choices}{_misread(problem, origin)}"
    else:
        reason = describe({**problem, "loc": ()})
        reason = reason[0].lower() + reason[1:]
    field = brief(dotted(place))
    return f"{origin.where}: " + (f"the field {field!r} {reason}" if field else reason)


def _unknown(model: type[BaseModel], place: PathOfData, problem: ErrorDetails) -> str:
    key, named = str(place[-1]), f"the key {brief(dotted(place))!r}"
    if place[:-1] == ("lora",):
        reason = lora_refusal(key, problem["input"])
        if reason is not None:
            return f"{named} {reason}"
    elsewhere = [dotted(at) for at, keys in _sections(model, ()) if key in keys]
    if elsewhere:
        return f"{named} is unknown here; it belongs under {elsewhere[0]!r}"
    near = get_close_matches(key.lower(), _fields(model, place[:-1]), 1)
    if near:
        return f"{named} is unknown; did you mean {near[0]!r}?"
    return f"{named} is unknown"


def _wanted(problem: ErrorDetails) -> str | None:
    """What would have been right, where that is short to say."""
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "literal_error":
        return str(context["expected"])
    if kind == "string_pattern_mismatch":
        return PATTERNS_IN_WORDS.get(context["pattern"])
    return _WANTED.get(kind)


def _misread(problem: ErrorDetails, written: Written) -> str:
    """What is there instead: empty, a near miss, or what YAML made of it."""
    value, said = problem["input"], brief(written.said or "")[:_MOST_SAID]
    if value is None:
        return ", and is empty"
    if problem["type"] == "literal_error":
        # Another case, or a slip.
        choices = _QUOTED.findall(problem["ctx"]["expected"])
        near = get_close_matches(str(value).lower(), choices, 1, cutoff=0.7)
        if near:
            return f"; did you mean {near[0]!r}?"
    if problem["type"] == "string_type" and said and not isinstance(value, str):
        read = str(value).lower() if isinstance(value, bool) else f"the number {value}"
        read = "a date" if isinstance(value, date) else read
        return f", and YAML reads {said} as {read}: write it in quotes"
    return f", not {said!r}" if said else ""


def _place(problem: ErrorDetails, origins: Mapping[PathOfData, Written]) -> PathOfData:
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
    return _keys(inner) if inner else []


def _sections(
    model: type[BaseModel], at: PathOfData
) -> Iterator[tuple[PathOfData, list[str]]]:
    """Every section that a file always may have, with its keys."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            place = (*at, field.alias or name)
            yield place, _keys(inner)
            yield from _sections(inner, place)


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(part) for part in get_args(annotation))
    return next((part for part in found if part), None)
