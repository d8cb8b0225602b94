"""How far a run has come at the aggregator, as its run folder says."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from fedit_secure.errors import StorageError
from fedit_secure.federation.durable import write_durably


@dataclass(frozen=True, slots=True)
class Progress:
    """The round and attempt entered last. `open`: the attempt has not ended, as far as
    the disk knows. `certified`: the last round that a certificate closed."""

    round: int = 1
    attempt: int = 0
    open: bool = False
    certified: int = 0

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """What a run folder says; None before its first attempt. StorageError if the file
        is damaged.
        """
        path = folder / "progress.json"
        try:
            return cls(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise StorageError(f"{path} is damaged: {error}") from error

    def save(self, folder: Path) -> None:
        """Replace it, durably. Raises StorageError."""
        write_durably(folder / "progress.json", json.dumps(asdict(self)).encode())
