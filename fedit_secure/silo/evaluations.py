"""What evaluations have shown, as this silo knows it: evaluations.jsonl in its state folder.

Two kinds of lines, each of the state that a round began with: `own`, on this silo's held-out
units and without noise, which stays here; and `federation`, the noised mean that every party
reads in the round's sum.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fedit_secure.errors import StorageError
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.durable import append_durably
from fedit_secure.federation.evaluation import Reading
from fedit_secure.federation.readings import reading_of
from fedit_secure.secagg.messages import PublishedSum
from fedit_secure.tuning.job import OwnFigure

FILE = "evaluations.jsonl"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Of one round; None for what isn't known here."""

    own: OwnFigure | None = None
    federation: Reading | None = None


class Evaluations:
    """Those of one charter, on disk and in memory. Raises StorageError."""

    def __init__(self, state: Path, charter: Charter) -> None:
        self._path, self._charter = state / FILE, charter
        self._digest = charter.digest().hex()
        self._found: dict[int, Evaluated] = {}
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            lines = []
        except OSError as error:
            raise StorageError(f"{self._path} can't be read: {error}") from error
        for line in lines:
            self._remember(line)

    def of(self, round: int) -> Evaluated:
        """What is known of a round."""
        return self._found.get(round, Evaluated())

    def own(self, round: int, figure: OwnFigure) -> None:
        """The worker has scored what is held out."""
        self._found[round] = replace(self.of(round), own=figure)
        self._write(round, "own", asdict(figure))

    def published(self, round: int, sum_of: PublishedSum | None) -> None:
        """A round was certified, with a sum if this silo has verified it."""
        if sum_of is None:
            return
        last = int(sum_of.total[-1])
        found = reading_of(self._charter, last, sum_of.contributors)
        if found is not None:
            self._found[round] = replace(self.of(round), federation=found)
            self._write(round, "federation", asdict(found))

    def _write(self, round: int, kind: str, figures: dict[str, object]) -> None:
        line = {"charter": self._digest, "round": round, kind: figures}
        append_durably(self._path, json.dumps(line).encode() + b"\n")

    def _remember(self, line: bytes) -> None:
        try:
            said = json.loads(line)
            if said["charter"] != self._digest:
                return
            round = int(said["round"])
            if "own" in said:
                figure = OwnFigure(**said["own"])
                self._found[round] = replace(self.of(round), own=figure)
            else:
                found = Reading(**said["federation"])
                self._found[round] = replace(self.of(round), federation=found)
        except (ValueError, KeyError, TypeError):
            return  # cut off by a crash: a figure to look at, on which nothing rests
