"""What a charter's claim doesn't say, computed beside it in a bounded time."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from fedit_secure.errors import FeditError
from fedit_secure.federation.charter import Charter
from fedit_secure.privacy.neighbourhoods import readings
from fedit_secure.privacy.plan import DpPlan

BESIDE = "what_the_epsilon_hides"
SECONDS = 60.0
"""For all figures together. Each takes about one; a loaded machine, or an accountant that
doesn't end, must not hold an operator up."""


def beside_the_claim(
    charter: Charter, name: str, person_sizes: Sequence[int] = (2, 4)
) -> list[dict[str, Any]]:
    """One row a reading of "neighbouring" for a silo's whole plan; none without DP.

    `person_sizes`: of how many records a person may have, for a charter per record. The
    other silo that a person may be at is the one whose noise is least. What isn't there
    in time is said to be missing, never guessed.
    """
    plan = charter.plan_for(name)
    if plan.kind == "none":
        return []
    others = [charter.plan_for(row.name) for row in charter.roster if row.name != name]
    least = min(others, key=lambda other: other.noise_multiplier / other.sample_rate)
    return _computed(plan, tuple(person_sizes), (least,), SECONDS)


def _computed(
    plan: DpPlan, records: Sequence[int], elsewhere: Sequence[DpPlan], seconds: float
) -> list[dict[str, Any]]:
    end, rows = time.monotonic() + seconds, []
    if seconds <= 0:
        return [_missing(seconds)]
    # A process of its own: numpy can't be interrupted in a thread. Spawned, not forked:
    # the parent has threads.
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe(duplex=False)
    child = spawn.Process(
        target=_state, args=(there, plan, records, elsewhere), daemon=True
    )
    child.start()
    there.close()
    try:
        while True:
            if not here.poll(max(0.0, end - time.monotonic())):
                return [*rows, _missing(seconds)]
            row = here.recv()
            if row is None:
                return rows
            rows.append(row)
    except EOFError:
        return [*rows, _row("the others", "can't be stated: their process ended", "-")]
    finally:
        child.kill()
        child.join()
        here.close()


def _state(
    to: Connection, plan: DpPlan, records: Sequence[int], elsewhere: Sequence[DpPlan]
) -> None:
    try:
        for reading in readings(plan, records=records, elsewhere=elsewhere):
            finite = reading.epsilon < math.inf
            figure = reading.epsilon if finite else "unbounded"
            to.send(_row(reading.hidden, figure, reading.by))
    except (FeditError, ValueError) as failure:
        to.send(_row("the others", f"can't be stated: {failure}", "-"))
    to.send(None)


def _missing(seconds: float) -> dict[str, Any]:
    return _row("the others", f"not computed within {seconds:g} seconds", "-")


def _row(hidden: str, epsilon: float | str, by: str) -> dict[str, Any]:
    return {"hidden": hidden, "epsilon": epsilon, "stated_by": by}
