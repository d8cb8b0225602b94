"""Many of `fedit silo serve` in one process, whose updates are drawn and not tuned.

    python benchmarks/_drawn_silos.py CONFIG...

Each has its own identity, journal, policy and link; they share an event loop. Events are
JSON lines with the time of the machine's monotonic clock; the last line says how large
each kind of frame was at most.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from _drawn_silo import drawn

from fedit_secure.config import load_silo_config
from fedit_secure.silo import serve
from fedit_secure.silo.accounting import Question, answer
from fedit_secure.wire import client

LARGEST: dict[str, int] = defaultdict(int)


def measure_frames() -> None:
    """From now on note the size of every frame that a link of ours sends or receives."""
    encode, decode = client.encode, client.decode

    def encoded(frame: Any) -> bytes:
        data = encode(frame)
        _note(frame, data)
        return data

    def decoded(data: bytes, *rest: Any) -> Any:
        frame = decode(data, *rest)
        _note(frame, data)
        return frame

    client.encode, client.decode = encoded, decoded


def _note(frame: object, data: bytes) -> None:
    name = type(frame).__name__
    LARGEST[name] = max(LARGEST[name], len(data))


class SharedAccountants:
    """In the place of each daemon's own process: this one, where they share a machine."""

    def __call__(self, question: Question) -> str:
        return answer(question)

    def close(self) -> None:
        """There is nothing to end."""


def say(**what: object) -> None:
    """One line to whoever started this process."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def one(config: Path) -> None:
    """A silo's daemon, until the run ends."""
    loaded = load_silo_config(config)

    def tell(round: int, phase: str) -> None:
        say(round=round, silo=loaded.name, phase=phase, at=time.monotonic())

    await serve.serve(loaded, tell)


async def all_of(configs: list[Path]) -> None:
    """All of them, side by side."""
    async with asyncio.TaskGroup() as group:
        for config in configs:
            group.create_task(one(config))


if __name__ == "__main__":
    serve.tune_in_child = drawn  # type: ignore[assignment]
    serve.Accountants = SharedAccountants  # type: ignore[assignment,misc]
    measure_frames()
    asyncio.run(all_of([Path(name) for name in sys.argv[1:]]))
    say(frames=LARGEST)
