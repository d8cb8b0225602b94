"""The aggregator's operator ends a run: an order in the state folder, until it is withdrawn.

Whoever may write there may do anything to the run, so the file needs no signature.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from fedit_secure.errors import StorageError
from fedit_secure.federation.durable import write_durably


@dataclass(frozen=True, slots=True)
class StopOrder:
    """`at_once`: don't wait for the round's end. `reason` is told to every silo."""

    reason: str
    at_once: bool
    day: str

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """The order that is in force; None if there is none. Raises StorageError."""
        try:
            content = json.loads(path.read_bytes())
            order = cls(
                str(content["reason"]), bool(content["at_once"]), content["day"]
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{path} is damaged: {error}") from error
        return order

    def save(self, path: Path) -> None:
        """Put it in force, durably. Raises StorageError."""
        write_durably(path, json.dumps(asdict(self)).encode() + b"\n")

    def sentence(self, certified: int) -> str:
        """What silos are told."""
        after = (
            f"after round {certified}" if certified else "before its first round ended"
        )
        return f"the aggregator's operator stopped the run {after}: {self.reason}"


def stop_path(state: Path, charter: str) -> Path:
    """Where the order about the run of a charter (digest, hex) lies in a state folder."""
    return state / f"{charter[:16]}.stop"
