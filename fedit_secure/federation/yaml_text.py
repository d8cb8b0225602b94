"""YAML files that people write, and for every place in them where it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fedit_secure.errors import ConfigError
from fedit_secure.federation.document import brief
from fedit_secure.federation.durable import read_file

PathOfData = tuple[str | int, ...]
"""A place in a file's content: ("data", "columns", "response")."""

_MOST_NODES = 100_000  # of one file, where an alias counts as all that it stands for
# What PyYAML's constructors raise for tagged or unfinished values, beside its own errors.
NOT_YAML = (
    yaml.YAMLError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[PathOfData, str]]:
    """The file's mapping, and for each place in it where it was written."""
    text = read_file(path, "file", limit=4 << 20)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            raise ConfigError(f"{path} is empty")
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path} doesn't hold keys with values")
        origins: dict[PathOfData, str] = {}
        _note_lines(path, node, (), origins)
        data: dict[str, Any] = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: {brief(str(error.problem))}") from error
    except NOT_YAML as error:
        raise ConfigError(f"{path} isn't YAML text") from error
    return data, origins


def _note_lines(
    path: Path, node: yaml.Node, at: PathOfData, origins: dict[PathOfData, str]
) -> None:
    origins.setdefault(at, f"{path} line {node.start_mark.line + 1}")
    if len(origins) > _MOST_NODES:
        raise ConfigError(f"{path} holds more than {_MOST_NODES} values")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*at, str(key.value))
            where = f"{path} line {key.start_mark.line + 1}"
            if place in origins:
                said = brief(str(key.value))
                raise ConfigError(f"{where}: the key {said!r} is there twice")
            origins[place] = where
            _note_lines(path, value, place, origins)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _note_lines(path, value, (*at, index), origins)
