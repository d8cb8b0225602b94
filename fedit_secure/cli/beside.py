"""What a charter's claim doesn't say, computed beside it in a bounded time."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
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
    others = [charter.plan_for(row.name) for row in charter.roster if row.name != name]
    least = min(others, key=lambda other: other.noise_multiplier / other.sample_rate)
    return beside_a_plan(charter.plan_for(name), (least,), person_sizes)


def beside_a_plan(
    plan: DpPlan, elsewhere: Sequence[DpPlan], person_sizes: Sequence[int] = (2, 4)
) -> list[dict[str, Any]]:
    """The same for a plan; `elsewhere`: those of other silos that a person may be at."""
    if plan.kind == "none":
        return []
    return _computed(plan, tuple(person_sizes), tuple(elsewhere), SECONDS)


def _computed(
    plan: DpPlan, records: Sequence[int], elsewhere: Sequence[DpPlan], seconds: float
) -> list[dict[str, Any]]:
    if seconds <= 0:
        return [_missing(seconds)]
    question = {
        "plan": plan.as_dict(),
        "records": list(records),
        "elsewhere": [other.as_dict() for other in elsewhere],
    }
    # A process of its own, which can be ended: numpy in a thread can't.
    child = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    late = False
    try:
        said, _ = child.communicate(json.dumps(question), timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        said, late = child.communicate()[0], True
    except BaseException:  # an operator's interrupt: nothing goes on behind it
        child.kill()
        raise
    # What was said before the end counts, but for a line that was cut off.
    rows = [
        json.loads(line) for line in said.splitlines(keepends=True) if line[-1] == "\n"
    ]
    if rows and rows[-1] is None:
        return rows[:-1]
    end = _missing(seconds) if late else _unstated("their process ended")
    return [*rows, end]


def main() -> None:
    """The child: a question on standard input, a line of JSON for each reading."""
    question = json.load(sys.stdin)
    plan = DpPlan.from_dict(question["plan"])
    elsewhere = [DpPlan.from_dict(other) for other in question["elsewhere"]]
    records = question["records"]
    try:
        for reading in readings(plan, records=records, elsewhere=elsewhere):
            finite = reading.epsilon < math.inf
            figure = reading.epsilon if finite else "unbounded"
            _tell(_row(reading.hidden, figure, reading.by))
    except (FeditError, ValueError) as failure:
        _tell(_unstated(str(failure)))
    _tell(None)


def _tell(row: dict[str, Any] | None) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def _unstated(why: str) -> dict[str, Any]:
    return _row("the others", f"can't be stated: {why}", "-")


def _missing(seconds: float) -> dict[str, Any]:
    return _row("the others", f"not computed within {seconds:g} seconds", "-")


def _row(hidden: str, epsilon: float | str, by: str) -> dict[str, Any]:
    return {"hidden": hidden, "epsilon": epsilon, "stated_by": by}


if __name__ == "__main__":
    main()
