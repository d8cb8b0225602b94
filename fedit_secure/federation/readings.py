"""What a charter's evaluation makes of a published sum, at every party alike."""

from __future__ import annotations

from collections.abc import Sequence

from fedit_secure.federation import evaluation as e
from fedit_secure.federation.charter import Charter


def full_coordinate(charter: Charter) -> float:
    """What a full coordinate stands for, in nats. ValueError if nothing is evaluated."""
    if charter.evaluation is None:
        raise ValueError("the charter evaluates nothing")
    return e.span(charter.evaluation, (row.held_out for row in charter.roster))


def reading_of(
    charter: Charter, last: int, contributors: Sequence[int]
) -> e.Reading | None:
    """Of a verified sum's last integer; None where the charter evaluates nothing.

    `contributors`: roster indices.
    """
    terms = charter.evaluation
    if terms is None:
        return None
    plans = [e.plan_of(terms, row.held_out) for row in charter.roster]
    full = full_coordinate(charter)
    return e.reading(last, charter.secagg_params(), contributors, plans, full)
