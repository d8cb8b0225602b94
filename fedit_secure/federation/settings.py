"""A file's settings with what overrides them, and where each one in effect comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from fedit_secure.errors import ConfigError
from fedit_secure.federation.misfits import sentence
from fedit_secure.federation.yaml_text import NOT_YAML, PathOfData, Written, read_yaml

DEFAULT = "default"
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Setting:
    """One value in effect: its dotted key, its JSON value, and where it comes from: a
    file's line, a variable, an option, or "default".
    """

    key: str
    value: Any
    origin: str


class Settings:
    """The keys of a YAML file; `put` lays others over them, the later ones on top.

    Raises ConfigError for a file that can't be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data, self._origins = read_yaml(path)

    @property
    def sections(self) -> frozenset[str]:
        """The keys at the top of the file."""
        return frozenset(self._data)

    def where(self, key: str) -> str:
        """Where a dotted key was written: a line, a variable, an option; else the file."""
        place = tuple(key.split("."))
        return self._origins[place].where if place in self._origins else str(self._path)

    def put(self, key: str, value: Any, origin: str) -> None:
        """Lay a value over the file's at a dotted key, with all that is inside it."""
        *sections, last = key.split(".")
        inner: dict[str, Any] = self._data
        at: PathOfData = ()
        for section in sections:
            at = (*at, section)
            if not isinstance(inner.get(section), dict):
                inner[section] = {}
                self._forget(at)
                self._origins[at] = Written(origin)
            inner = inner[section]
        inner[last] = value
        self._forget((*at, last))
        self._note((*at, last), value, origin)

    def put_text(self, key: str, text: str, origin: str) -> None:
        """As `put`; a text that begins like a YAML list or mapping is one.

        Other text stays as it is: the model makes a number of it where it wants one.
        Raises ConfigError that names the origin.
        """
        value: Any = text
        if text.startswith(("[", "{")):
            try:
                value = yaml.safe_load(text)
            except NOT_YAML as error:
                raise ConfigError(f"{origin} isn't a YAML list or mapping") from error
        self.put(key, value, origin)

    def fit(self, model: type[_Model]) -> _Model:
        """The settings as a model, whose paths are relative to the file's folder.

        Raises ConfigError: one sentence that names the origin and the field.
        """
        try:
            return model.model_validate(
                self._data, context={"folder": self._path.parent}
            )
        except ValidationError as error:
            wrong = sentence(model, self._path, self._origins, error)
            raise ConfigError(wrong) from error

    def in_effect(self, fitted: BaseModel) -> list[Setting]:
        """Every value of what `fit` returned, defaults included, in the model's order."""
        content = fitted.model_dump(mode="json")
        return [
            Setting(".".join(map(str, place)), value, self._origin(place))
            for place, value in _leaves(content, ())
        ]

    def _origin(self, place: PathOfData) -> str:
        if place in self._origins:
            return self._origins[place].where
        return DEFAULT

    def _forget(self, at: PathOfData) -> None:
        for place in [p for p in self._origins if p[: len(at)] == at]:
            del self._origins[place]

    def _note(self, at: PathOfData, value: Any, origin: str) -> None:
        said = str(value) if isinstance(value, str | int | float) else None
        self._origins[at] = Written(origin, said)
        parts: Iterator[tuple[str | int, Any]] = iter(())
        if isinstance(value, dict):
            parts = ((str(key), inner) for key, inner in value.items())
        elif isinstance(value, list):
            parts = iter(enumerate(value))
        for part, inner in parts:
            self._note((*at, part), inner, origin)


def _leaves(value: Any, at: PathOfData) -> Iterator[tuple[PathOfData, Any]]:
    """What holds no further keys; a list of plain values is one value."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*at, key))
    elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*at, index))
    else:
        yield at, value
