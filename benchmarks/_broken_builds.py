"""Builds that are broken in one way each: production code with one function replaced.

with broken("noise-off"): ...
python _broken_builds.py noise-off NOTE     the watched worker of such a build
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from fedit_secure.privacy import noise
from fedit_secure.privacy.noise import CryptoNoise
from fedit_secure.silo import tuner
from fedit_secure.tuning import dp_step, local_round, worker
from fedit_secure.tuning.job import Progress

Break = tuple[Any, str, Callable[[Any], Any]]
"""Whose attribute it is, its name, and the broken one made of the right one."""


def _noise_off(_: Any) -> Any:
    return lambda self, total, *given, **options: total


def _less_noise(share: float) -> Callable[[Any], Any]:
    def make(right: Any) -> Any:
        def grid_noise(*given: Any) -> tuple[float, float]:
            grid, deviation = right(*given)
            return grid, deviation * share

        return grid_noise

    return make


def _same_in_every_step(right: Any) -> Any:
    return lambda self, step, *given: right(self, 0, *given)


def _one_key_for_all(right: Any) -> Any:
    return SimpleNamespace(**{**vars(right), "urandom": lambda size: b"k" * size})


def _clip_off(right: Any) -> Any:
    return lambda rows, owners, units, clip: right(rows, owners, units, 1e30)


def _shuffled(_: Any) -> Any:
    """Batches of one size, dealt from a shuffled deck, as a data loader deals them."""

    def poisson_units(_: CryptoNoise, step: int, units: int, rate: float) -> Any:
        size = max(1, round(units * rate))
        deck, place = divmod(step, units // size)
        order = np.random.default_rng(deck).permutation(units)
        return np.sort(order[place * size : (place + 1) * size]).astype(np.int64)

    return poisson_units


def _twice_the_rate(right: Any) -> Any:
    def poisson_units(noise: CryptoNoise, step: int, units: int, rate: float) -> Any:
        return right(noise, step, units, min(1.0, 2 * rate))

    return poisson_units


def _one_step_more(right: Any) -> Any:
    def prepare_round(*given: Any, **options: Any) -> Any:
        ready = right(*given, **options)
        steps = replace(ready.steps, steps=ready.steps.steps + 1)
        return replace(ready, steps=steps)

    return prepare_round


def _samples_then_charges(_: Any) -> Any:
    """`_converse` with two of its lines in the other order."""

    async def converse(
        child: Any, job: Any, on_phase: Any, charge: Any, on_figure: Any
    ) -> Any:
        await tuner._send(child, job.to_json())  # noqa: SLF001
        while True:
            said = await tuner._read_line(child)  # noqa: SLF001
            if (phase := said["phase"]) == "done":
                return await tuner._read_update(child, said, job.update_length)  # noqa: SLF001
            if on_phase is not None:
                on_phase(Progress(phase, said.get("step", 0), said.get("of", 0)))
            if phase == "ready":
                await tuner._send(child, "sample")  # noqa: SLF001
                await charge()

    return converse


def _does_not_wait(_: Any) -> Any:
    def watch(_: Any) -> threading.Event:
        event = threading.Event()
        event.set()
        return event

    return watch


def _goes_on_after_a_refusal(right: Any) -> Any:
    async def converse(
        child: Any, job: Any, on_phase: Any, charge: Any, on_figure: Any
    ) -> Any:
        async def quiet() -> None:
            with suppress(Exception):
                await charge()

        return await right(child, job, on_phase, quiet, on_figure)

    return converse


BREAKS: dict[str, Break] = {
    "noise-off": (CryptoNoise, "add_grid_noise", _noise_off),
    "noise-halved": (noise, "grid_noise", _less_noise(0.5)),
    "noise-quartered": (noise, "grid_noise", _less_noise(0.25)),
    "noise-reused-in-steps": (CryptoNoise, "keystream", _same_in_every_step),
    "noise-reused-in-attempts": (worker, "os", _one_key_for_all),
    "clip-off": (dp_step, "clip_units", _clip_off),
    "batches-shuffled": (local_round, "poisson_units", _shuffled),
    "rate-doubled": (local_round, "poisson_units", _twice_the_rate),
    "steps-miscounted": (local_round, "prepare_round", _one_step_more),
    "intent-missing-in-the-silo": (tuner, "_converse", _samples_then_charges),
    "intent-missing-in-the-worker": (worker, "_watch_standard_input", _does_not_wait),
    "refusal-ignored": (tuner, "_converse", _goes_on_after_a_refusal),
}


@contextmanager
def broken(name: str) -> Iterator[None]:
    """This process runs the broken build until the end of the block."""
    owner, attribute, make = BREAKS[name]
    right = getattr(owner, attribute)
    setattr(owner, attribute, make(right))
    try:
        yield
    finally:
        setattr(owner, attribute, right)


def worker_of(*names: str) -> tuple[str, ...]:
    """What Python runs as the watched worker of a build that is broken in these ways."""
    return (str(Path(__file__).resolve()), *names)


def main(names: list[str], note: Path) -> int:
    """The watched worker of a broken build."""
    from fedit_secure.audit.canary import watched_worker

    with ExitStack() as ways:
        for name in names:
            ways.enter_context(broken(name))
        return watched_worker.main(note)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:-1], Path(sys.argv[-1])))
