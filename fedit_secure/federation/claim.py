"""What a silo signs of its own cost, at the end of a run and for an auditor.

A ledger holds events and never an epsilon. A claim states it once, for exactly the charges
below one head, so that whoever holds the ledger can compute it again. It is a function of
the ledger and the charter alone: it tells nothing else of the records.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from fedit_secure.errors import PolicyRefusal
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.document import (
    Document,
    Hex32,
    Hex64,
    Line,
    Name,
    Part,
    canonical,
)
from fedit_secure.secagg.keys import BadSignature, SigningKey, verify
from fedit_secure.secagg.transcript import digest

if TYPE_CHECKING:
    from fedit_secure.privacy.accountant import Epsilons
    from fedit_secure.privacy.ledger import Ledger

Epsilon = Annotated[float, Field(ge=0)]


class Stated(Part):
    """Epsilons at `delta`. All null: without privacy, nothing bounds what leaked.

    `pld` or `prv` alone is null where that accountant can't reach the charges.
    `published` is max(PLD, PRV), or the largest of all where they don't agree.
    """

    delta: Annotated[float, Field(gt=0, lt=1)]
    pld: Epsilon | None
    prv: Epsilon | None
    rdp: Epsilon | None
    published: Epsilon | None

    @classmethod
    def of(cls, delta: float, found: Epsilons) -> Stated:
        """What the accountants found at `delta`."""

        def finite(epsilon: float | None) -> float | None:
            return None if epsilon is None or math.isinf(epsilon) else epsilon

        return cls(
            delta=delta,
            pld=finite(found.pld),
            prv=finite(found.prv),
            rdp=finite(found.rdp),
            published=finite(found.published),
        )


class Claim(Document):
    """One silo's claim under one charter, about its ledger up to `sequence` and `hash`.

    `run`: the charter's whole plan, spares included, which is what the run claims however
    early it stopped; null without DP. `lifetime`: every charge below the head.
    """

    format: Literal["fedit/claim/v1"] = "fedit/claim/v1"
    silo: Name
    population: Line
    charter: Hex32
    unit: Literal["record", "person"]
    sequence: Annotated[int, Field(ge=1, lt=2**53)]
    hash: Hex32
    run: Stated | None
    lifetime: Stated
    signature: Hex64

    def signed_digest(self) -> bytes:
        """The 32 bytes that the signature covers: every field but itself."""
        content = self.model_dump(mode="json", exclude={"signature"})
        return digest("fedit/claim/v1", canonical(content))


def sign_claim(charter: Charter, name: str, ledger: Ledger, key: SigningKey) -> Claim:
    """The claim of silo `name` about all of its ledger. Takes seconds: it accounts.

    Raises PrivacyAccountingError if the charter's plan is out of the accountants' reach.
    """
    plan = charter.plan_for(name)
    run = None if plan.delta is None else Stated.of(plan.delta, plan.epsilons())
    draft = Claim(
        silo=name,
        population=ledger.population,
        charter=charter.digest().hex(),
        unit=ledger.opened.unit,
        sequence=ledger.sequence,
        hash=ledger.hash.hex(),
        run=run,
        lifetime=Stated.of(ledger.delta, ledger.spent()),
        signature="00" * 64,
    )
    return draft.model_copy(update={"signature": key.sign(draft.signed_digest()).hex()})


def verify_claim(charter: Charter, claim: Claim) -> None:
    """Raises PolicyRefusal unless a rostered silo signed this claim, of its population and
    under this charter. What it claims is the auditor's to compute.
    """
    row = charter.row(claim.silo)
    if claim.charter != charter.digest().hex() or claim.population != row.population:
        raise PolicyRefusal(
            f"the claim of silo {claim.silo!r} is under another charter, or of another "
            "population"
        )
    try:
        verify(
            bytes.fromhex(row.identity),
            claim.signed_digest(),
            bytes.fromhex(claim.signature),
        )
    except BadSignature:
        raise PolicyRefusal(
            f"the claim of silo {claim.silo!r} isn't signed by its identity"
        ) from None
