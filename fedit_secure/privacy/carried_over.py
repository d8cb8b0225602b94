"""Charges that a ledger didn't make itself: of a lost one, and of another population's.

The operator signs both (`federation/ledger_signatures.py`): nobody else can know them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from fedit_secure.privacy.entry import (
    Count,
    Digest,
    Entry,
    Order,
    Part,
    Positive,
    Signature,
    Text,
)
from fedit_secure.privacy.mechanisms import steps_event
from fedit_secure.privacy.plan import Unit

if TYPE_CHECKING:
    from dp_accounting import DpEvent

MAX_CHARGES = 500
"""Different mechanisms that one entry can take over; equal ones count together."""


class CarriedCharge(Part):
    """`times` charges of `steps` steps each. Noise 0: without privacy."""

    sample_rate: Annotated[float, Field(gt=0, le=1)]
    noise_multiplier: Annotated[float, Field(ge=0)]
    steps: Count
    times: Count

    def event(self) -> DpEvent:
        """What they release about the records, at most."""
        return steps_event(
            self.sample_rate, self.noise_multiplier, self.steps * self.times
        )


class Lost(Entry):
    """An earlier ledger of these records is lost, and counts as if its cap was spent.

    `epsilon`, at the ledger's delta, is the cap in force, null where there is none: then
    nothing bounds what was lost. What is charged beside it adds to it.
    """

    kind: Literal["lost"] = "lost"
    version: Literal[1] = 1
    epsilon: Positive | None
    reason: Text
    signature: Signature


class Inherited(Entry):
    """Records or persons of this population are another one's, too: its charges count here.

    They are those of the population `source` up to its head after `sequence` entries:
    its first charter's whole plan, every other charge of its own, and what it had from
    others but this population. `lost`: epsilon of what it lost, null without a bound;
    `filter_order`: of its filter, fixed before its first release; `unit`: that of both.
    A later entry of the same source replaces an earlier one, and never takes a charge back.
    """

    kind: Literal["inherited"] = "inherited"
    version: Literal[1] = 1
    source: Text
    sequence: Count
    hash: Digest
    unit: Unit
    filter_order: Order
    charges: Annotated[tuple[CarriedCharge, ...], Field(max_length=MAX_CHARGES)]
    lost: Annotated[float, Field(ge=0)] | None
    reason: Text
    signature: Signature

    def mechanisms(self) -> dict[tuple[float, float, int], int]:
        """How often each (sample rate, noise multiplier, steps) was charged."""
        found: dict[tuple[float, float, int], int] = {}
        for c in self.charges:
            key = (c.sample_rate, c.noise_multiplier, c.steps)
            found[key] = found.get(key, 0) + c.times
        return found

    def covers(self, earlier: Inherited) -> bool:
        """Whether this one charges at least what an earlier one did."""
        now = self.mechanisms()
        lost = self.lost is None or (
            earlier.lost is not None and self.lost >= earlier.lost
        )
        return lost and all(
            now.get(mechanism, 0) >= times
            for mechanism, times in earlier.mechanisms().items()
        )
