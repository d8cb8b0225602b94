"""What can be seen of a whole run from outside the silos, and who writes it down."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from attacks.fixed_chance import PARTY
from numpy.typing import NDArray

from fedit_secure.cli.logs import JsonLines
from fedit_secure.secagg import messages as m

VICTIM = "east"  # whose records differ between two runs


@dataclass(frozen=True)
class Passed:
    """Something that crossed a link: `up` from the silo, else to it."""

    seconds: float
    silo: str
    up: bool
    size: int
    frame: Any
    raw: bytes


@dataclass(frozen=True)
class Fetch:
    """A silo asks for the blob at an address."""

    address: bytes


@dataclass
class Seen:
    """What could be seen of a run outside the silos; and what couldn't, the integers of
    the victim under each of its masked `uploads`."""

    passed: list[Passed] = field(default_factory=list)
    logged: list[tuple[str, str]] = field(default_factory=list)
    printed: dict[str, str] = field(default_factory=dict)
    workers: list[tuple[str, str]] = field(default_factory=list)
    ended: list[tuple[str, str]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    status: bytes = b""  # the victim's status file, which stays with it
    uploads: list[tuple[m.MaskedUpload, NDArray[np.int32]]] = field(
        default_factory=list
    )


class Ear(io.TextIOBase):
    """What a party prints, under its name."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def write(self, text: str) -> int:
        """Keep it."""
        party = PARTY.get()
        self._seen.printed[party] = self._seen.printed.get(party, "") + text
        return len(text)


class Listener(logging.Handler):
    """The log as an operator ships it, but for the times."""

    def __init__(self, seen: Seen) -> None:
        super().__init__(logging.INFO)
        self._seen = seen
        self.setFormatter(JsonLines())

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        line = json.loads(self.format(record))
        del line["time"]
        self._seen.logged.append((PARTY.get(), json.dumps(line)))
