"""YAML files that people write, and for every place in them what was written where."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yaml.reader import ReaderError

from fedit_secure.errors import ConfigError
from fedit_secure.federation.document import brief
from fedit_secure.federation.durable import read_file

PathOfData = tuple[str | int, ...]
"""A place in a file's content: ("data", "columns", "response")."""


class Written(NamedTuple):
    """`where` a value comes from, as an error names it, and what it `said` there: of a
    scalar the text before YAML made something of it, None of anything else.
    """

    where: str
    said: str | None = None


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
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
# What the parser says where it gave up, though the fault is where it began.
_BEGAN_EARLIER = ("could not find expected", "found unexpected end of stream")


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[PathOfData, Written]]:
    """The file's mapping, and what was written at each place in it.

    Raises ConfigError, which names the line where there is one.
    """
    text = read_file(path, "file", limit=4 << 20)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            raise ConfigError(f"{path} is empty")
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path} doesn't hold keys with values")
        origins: dict[PathOfData, Written] = {}
        _note_lines(path, node, (), origins)
        data: dict[str, Any] = loader.construct_document(node)
    except ReaderError as error:
        raise ConfigError(_undecodable(path, text, error)) from error
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_unparsable(path, error)) from error
    except NOT_YAML as error:
        raise ConfigError(f"{path} isn't YAML text") from error
    return data, origins


def _undecodable(path: Path, text: bytes, error: ReaderError) -> str:
    if error.encoding == "unicode":  # it was decoded, into what YAML has no place for
        return f"{path} isn't YAML text: it holds the character #x{error.character:04x}"
    line = text.count(b"\n", 0, error.position) + 1
    return (
        f"{path} line {line} isn't UTF-8 text: byte {error.position} can't be decoded"
    )


def _unparsable(path: Path, error: yaml.MarkedYAMLError) -> str:
    problem, mark = str(error.problem), error.problem_mark
    if problem.startswith(_BEGAN_EARLIER):
        mark = error.context_mark or mark
    if r"'\t'" in problem:
        problem = "there is a tab, and YAML indents with spaces only"
    line = f" line {mark.line + 1}" if mark else ""
    return f"{path}{line}: {brief(problem)}"


def _note_lines(
    path: Path, node: yaml.Node, at: PathOfData, origins: dict[PathOfData, Written]
) -> None:
    said = node.value if isinstance(node, yaml.ScalarNode) else None
    # A key's own line, where there is one, rather than that on which its value begins.
    place = f"{path} line {node.start_mark.line + 1}"
    origins[at] = Written(origins[at].where if at in origins else place, said)
    if len(origins) > _MOST_NODES:
        raise ConfigError(f"{path} holds more than {_MOST_NODES} values")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = f"{path} line {key.start_mark.line + 1}"
            _require_text(place, key)
            within = (*at, key.value)
            if within in origins:
                raise ConfigError(
                    f"{place}: the key {brief(key.value)!r} is there twice"
                )
            origins[within] = Written(place)
            _note_lines(path, value, within, origins)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _note_lines(path, value, (*at, index), origins)


def _require_text(where: str, key: yaml.Node) -> None:
    if not isinstance(key, yaml.ScalarNode):
        raise ConfigError(f"{where}: a list or a mapping can't be a key")
    if key.tag not in (_TEXT, _MERGE):
        raise ConfigError(
            f"{where}: YAML reads the key {brief(key.value)} as something else than a "
            "text; write it in quotes"
        )
