"""The highest leaf serial seen of each silo, kept across restarts: an older leaf, perhaps
a stolen one, stays refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from fedit_secure.errors import StorageError
from fedit_secure.federation.durable import write_durably


class Serials(MutableMapping[str, int]):
    """A mapping from silo name to serial whose every change is on the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            content = json.loads(path.read_bytes()) if path.exists() else {}
            self._serials = {str(name): int(serial) for name, serial in content.items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise StorageError(f"{path} is damaged: {error}") from error

    def __getitem__(self, name: str) -> int:
        return self._serials[name]

    def __setitem__(self, name: str, serial: int) -> None:
        if self._serials.get(name) == serial:
            return
        after = {**self._serials, name: serial}
        write_durably(self._path, json.dumps(after, sort_keys=True).encode())
        self._serials = after

    def __delitem__(self, name: str) -> None:
        raise TypeError("a serial that was seen isn't forgotten")

    def __iter__(self) -> Iterator[str]:
        return iter(self._serials)

    def __len__(self) -> int:
        return len(self._serials)
