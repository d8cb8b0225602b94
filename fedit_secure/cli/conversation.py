"""The terminal's side of a chat: lines in, answers out, side by side where there is room."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from fedit_secure.cli.output import OutputFormat, note

if TYPE_CHECKING:
    from fedit_secure.evaluation.chat import Speaker, Turn, Wording

_PROMPT = "> "


def converse(
    speakers: Sequence[Speaker],
    wording: Wording,
    max_new_tokens: int,
    once: str | None,
    format: OutputFormat,
) -> None:
    """Answers `once`, or every line until the input ends.

    Raises ConfigError for a line that the models can't take, if it is the only one.
    """
    from fedit_secure.errors import ConfigError
    from fedit_secure.evaluation.chat import Turn, answer

    past: dict[str, list[Turn]] = {speaker.name: [] for speaker in speakers}
    for line in [once] if once is not None else _lines():
        screen = _screen([speaker.name for speaker in speakers], format)
        try:
            with screen:
                for speaker in speakers:
                    turns = past[speaker.name]
                    prompt = wording.prompt(speaker, turns, line, max_new_tokens)
                    pieces = answer(
                        speaker, prompt, max_new_tokens, wording.stops(speaker)
                    )
                    said = _said(speaker.name, pieces, screen)
                    turns.append(Turn(line, said))
                screen.ended(line)
        except ConfigError as wrong:
            if once is not None:
                raise
            note(f"fedit: {wrong}")


def _lines() -> Iterator[str]:
    """Lines that aren't empty; on a terminal after a prompt, where Ctrl-C drops one."""
    asking = sys.stdin.isatty()
    if asking:
        note("Ctrl-C ends an answer, Ctrl-D the chat.")
    while True:
        try:
            if asking:
                line = input(_PROMPT)
            else:
                line = sys.stdin.readline()
                if not line:
                    return
        except EOFError:
            return
        except KeyboardInterrupt:
            if not asking:
                raise
            note("")
            continue
        if line.strip():
            yield line.strip()


def _said(
    name: str, answered: Generator[str, None, None], screen: Plain | Columns
) -> str:
    """One answer; Ctrl-C ends it, and what was said until then counts."""
    said = ""
    screen.begins(name)
    with closing(answered) as pieces:
        try:
            for piece in pieces:
                clean = shown(piece)
                said += clean
                screen.says(name, clean)
        except KeyboardInterrupt:
            screen.says(name, " [...]")
    return said.strip()


def shown(text: str) -> str:
    """`text` without what a terminal would obey: a model's words are only words."""
    return "".join(
        letter
        for letter in text
        if letter in "\n\t" or unicodedata.category(letter) not in ("Cc", "Cf")
    )


def _screen(names: Sequence[str], format: OutputFormat) -> Plain | Columns:
    if format is OutputFormat.TABLE and len(names) > 1 and sys.stdout.isatty():
        return Columns(names)
    return Plain(names, json=format is OutputFormat.JSON)


class Plain:
    """Answers as lines, under a name where there are several; or one object a question."""

    def __init__(self, names: Sequence[str], *, json: bool) -> None:
        self._named, self._json = len(names) > 1, json
        self._said: dict[str, str] = {}

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *_: object) -> None:
        if self._said and not self._json:
            self._write("\n")

    def begins(self, name: str) -> None:
        """`name` is about to answer."""
        if self._named and not self._json:
            self._write(f"{chr(10) if self._said else ''}{name}: ")
        self._said[name] = ""

    def says(self, name: str, piece: str) -> None:
        """More of that answer."""
        if not self._said[name]:
            piece = piece.lstrip()
        self._said[name] += piece
        if not self._json:
            self._write(piece)

    def ended(self, line: str) -> None:
        """All have answered `line`."""
        if self._json:
            answers = {name: said.strip() for name, said in self._said.items()}
            content = {"prompt": line, "answers": answers}
            self._write(json.dumps(content, ensure_ascii=False) + "\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


class Columns:
    """Answers side by side, growing in place."""

    def __init__(self, names: Sequence[str]) -> None:
        from rich.console import Console
        from rich.live import Live

        self._said = dict.fromkeys(names, "")
        self._live = Live(
            self._table(),
            console=Console(file=sys.stdout, highlight=False),
            refresh_per_second=12,
            vertical_overflow="visible",
        )

    def __enter__(self) -> Columns:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def begins(self, name: str) -> None:
        """`name` is about to answer."""

    def says(self, name: str, piece: str) -> None:
        """More of that answer."""
        self._said[name] = (self._said[name] + piece).lstrip()
        self._live.update(self._table())

    def ended(self, line: str) -> None:
        """All have answered `line`."""

    def _table(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table(expand=True)
        for name in self._said:
            table.add_column(Text(name), ratio=1, overflow="fold")
        # Text: an answer's brackets must not be read as markup.
        table.add_row(*(Text(said) for said in self._said.values()))
        return table
