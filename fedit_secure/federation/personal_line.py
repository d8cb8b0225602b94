"""What drafting decides for silos that keep a B of their own (aggregation "fedsa")."""

from __future__ import annotations

from fedit_secure.errors import ConfigError
from fedit_secure.federation.aggregation import kept_factors
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.local_plan import Lora, Tuning
from fedit_secure.federation.update import Layout

_FIXED = {"rank", "alpha", "targets", "aggregation"}


def require_steps(lora: Lora, tuning: Tuning) -> None:
    """Raises ConfigError where the first round couldn't tune what it releases."""
    if kept_factors(lora.aggregation) and tuning.local_steps < 2:
        raise ConfigError(
            "the plan's 'tuning.local_steps' is 1, and 'lora.aggregation' fedsa needs at "
            "least 2: A has no gradient before B's first step, so the first round would "
            "release noise alone"
        )


def personal_since(
    lora: Lora,
    layout: Layout,
    base_model_digest: str,
    predecessor: Charter | None,
    goes_on: bool,
) -> int | None:
    """The first epoch of the line whose own B's a new epoch goes on with.

    None where silos begin with the initial state's B: there was no such epoch before, the
    adapter or the base model is another, or `goes_on` is False, as where A is drawn anew:
    a B is of no use to another A.
    """
    if predecessor is None or not goes_on or not kept_factors(lora.aggregation):
        return None
    before = predecessor.adapter
    same = (
        lora.model_dump(include=_FIXED) == before.model_dump(include=_FIXED)
        and tuple(before.layout) == tuple(layout)
        and predecessor.base_model.digest == base_model_digest
    )
    return (before.personal_since or predecessor.epoch) if same else None
