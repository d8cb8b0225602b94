"""Questions and answers in FastChat's JSON lines, or in plainer ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedit_secure.errors import ConfigError
from fedit_secure.federation.durable import read_file

_LIMIT = 1 << 28


@dataclass(frozen=True, slots=True)
class Question:
    """`turns`: what is asked, one after the other; at least one."""

    id: str
    turns: tuple[str, ...]
    category: str | None = None


def load_questions(path: Path) -> list[Question]:
    """A file of {"question_id", "turns", "category"?}, or "question" for one turn.

    Raises ConfigError naming file and line: no JSON, no text, an id that occurs twice.
    """
    found: dict[str, Question] = {}
    for where, row in _rows(path):
        name = _id(where, row)
        if name in found:
            raise ConfigError(f"{where}: question_id {name!r} occurs twice")
        turns = _texts(where, row.get("turns", row.get("question")), "turns")
        category = row.get("category")
        found[name] = Question(name, turns, None if category is None else str(category))
    if not found:
        raise ConfigError(f"{path}: has no questions")
    return list(found.values())


def load_answers(path: Path) -> dict[str, tuple[str, ...]]:
    """Answers by question_id: "choices"[0]["turns"], as FastChat keeps them, or "turns",
    or "answer". Raises ConfigError as `load_questions` does."""
    found: dict[str, tuple[str, ...]] = {}
    for where, row in _rows(path):
        name = _id(where, row)
        if name in found:
            raise ConfigError(f"{where}: question_id {name!r} occurs twice")
        choices = row.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            given = choices[0].get("turns")
        else:
            given = row.get("turns", row.get("answer"))
        found[name] = _texts(where, given, "answer", empty=True)
    return found


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = read_file(path, "the file", limit=_LIMIT).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: isn't UTF-8 text") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise ConfigError(f"{where}: isn't valid JSON") from None
        if not isinstance(row, dict):
            raise ConfigError(f"{where}: isn't a JSON object")
        yield where, row


def _id(where: str, row: dict[str, Any]) -> str:
    name = row.get("question_id")
    if isinstance(name, bool) or not isinstance(name, int | str) or name == "":
        raise ConfigError(f"{where}: question_id is missing")
    return str(name)


def _texts(
    where: str, value: Any, field: str, *, empty: bool = False
) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise ConfigError(f"{where}: has no {field}")
    if not all(isinstance(t, str) and (empty or t.strip()) for t in texts):
        raise ConfigError(f"{where}: {field} holds something that isn't a text")
    return tuple(texts)
