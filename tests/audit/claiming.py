"""What a silo claims of its cost, whatever its ledger holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from audit.parties import key_of
from dp_accounting import ComposedDpEvent

from fedit_secure.federation.charter import Charter
from fedit_secure.federation.claim import Claim, Stated
from fedit_secure.privacy.accountant import spent_epsilons
from fedit_secure.privacy.events import Intent, Opened, decode

if TYPE_CHECKING:
    from audit.forge import Chain


def claim_of(charter: Charter, silo: str, chain: Chain) -> Claim:
    """The claim about the whole chain. Lines that aren't events cost nothing here.

    `sign_claim` does the same for a ledger that is in order, and a lie seldom is.
    """
    opened, intents = None, []
    for entry in chain.entries:
        try:
            event = decode(entry)
        except ValueError:
            continue
        if isinstance(event, Intent):
            intents.append(event)
        elif isinstance(event, Opened):
            opened = event
    assert opened is not None
    plan = charter.plan_for(silo)
    spent = spent_epsilons(ComposedDpEvent([i.event() for i in intents]), opened.delta)
    head = chain.head()
    claim = Claim(
        silo=silo,
        population=head.population,
        charter=charter.digest().hex(),
        unit=charter.dp.unit,
        sequence=head.sequence,
        hash=head.hash.hex(),
        run=None if plan.delta is None else Stated.of(plan.delta, plan.epsilons()),
        lifetime=Stated.of(opened.delta, spent),
        signature="00" * 64,
    )
    return signed(claim, silo)


def signed(claim: Claim, by: str) -> Claim:
    """The claim under somebody's signature."""
    made = key_of(by).sign(claim.signed_digest()).hex()
    return claim.model_copy(update={"signature": made})
