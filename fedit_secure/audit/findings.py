"""What an audit says: one verdict a claim, and faults by name.

Claims and the kinds of faults are fixed here, in the order in which they are checked;
docs/auditor.md explains each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

CLAIMS: Final[Mapping[str, str]] = {
    "bundle": "The files are those that the manifest lists, which its maker signed.",
    "charter": "Every silo approved exactly this charter, and its parties are those of "
    "the cards.",
    "ledgers": "Each ledger is whole and unaltered, in an order that can happen, up to a "
    "head that its silo and the aggregator signed.",
    "heads": "Nobody was shown another history: every head that anybody signed or saw "
    "lies on the one ledger.",
    "plan": "Each charge is what the charter planned: rate, noise, clip, batch, steps, "
    "weight, and a round that is drawn for its silo.",
    "rounds": "Every round ended once, as a quorum of silos confirmed: none is missing, "
    "none is repeated.",
    "sums": "Every sum is of enough silos of those that its round is drawn for, and a quorum "
    "agreed on exactly whom.",
    "charges": "No sum holds an update that wasn't charged before its first record was "
    "drawn, and the ledgers say of each release what was published.",
    "adapters": "Each adapter follows, to the bit, from the one before it and the "
    "published sum.",
    "caps": "All charges stay within the cap in force, and whoever changed it signed "
    "that with a reason.",
    "epsilon": "The epsilon that each silo signed is what its charges cost, by PLD, PRV "
    "and RDP.",
}
"""What is verified, and the sentence that the verdict is about."""

FAULTS: Final[Mapping[str, tuple[str, str]]] = {
    # code: (claim, what it means)
    "file-changed": ("bundle", "a file isn't the one that the manifest lists"),
    "file-missing": ("bundle", "the manifest lists a file that isn't there"),
    "file-unlisted": ("bundle", "a file is there that the manifest doesn't list"),
    "manifest-unsigned": ("bundle", "the manifest isn't signed by the party it names"),
    "other-charter": ("charter", "the bundle was made of another charter's run"),
    "approval-missing": ("charter", "a silo hasn't approved the charter"),
    "approval-wrong": (
        "charter",
        "an approval isn't this silo's, or of another charter",
    ),
    "card-differs": ("charter", "a card isn't what the charter pins"),
    "card-unsigned": ("charter", "a card isn't signed by its identity"),
    "ledger-missing": ("ledgers", "a silo's ledger isn't there"),
    "entry-malformed": ("ledgers", "an entry isn't a canonical event of the schema"),
    "entry-of-another": ("ledgers", "an entry speaks of another silo or population"),
    "entry-impossible": ("ledgers", "an entry can't follow those before it"),
    "entry-unsigned": ("ledgers", "an entry that needs a signature has a wrong one"),
    "head-unsigned": ("ledgers", "the silo didn't sign the head of its ledger"),
    "head-uncountersigned": ("ledgers", "the aggregator didn't countersign the head"),
    "ledger-altered": ("ledgers", "the entries don't lead to the head that was signed"),
    "ledger-cut": ("ledgers", "the ledger ends before a head that was signed"),
    "ledger-forked": ("heads", "two heads of one length differ: two histories"),
    "ledger-rolled-back": ("heads", "a head is behind one that was shown before it"),
    "plan-differs": ("plan", "a charge isn't what the charter planned"),
    "delta-too-large": ("plan", "delta is above a tenth of one over the units"),
    "plan-overrun": ("plan", "there are more charges than the charter planned"),
    "charge-undrawn": ("plan", "a charge is for a round that isn't drawn for its silo"),
    "round-missing": ("rounds", "a round has no end before the next begins"),
    "round-unknown": ("rounds", "there is a round that the charter doesn't have"),
    "round-without-quorum": ("rounds", "too few silos confirmed how a round ended"),
    "confirmation-unsigned": ("rounds", "a confirmation has a wrong signature"),
    "confirmation-undrawn": (
        "rounds",
        "a silo confirmed a round that isn't drawn for it",
    ),
    "round-replayed": ("rounds", "what ended a round is of another round or charter"),
    "sum-missing": ("sums", "a round ended in a sum that isn't there"),
    "sum-differs": ("sums", "the sum isn't the one that was confirmed"),
    "sum-replayed": ("sums", "a sum is of another attempt, round or charter"),
    "sum-too-small": ("sums", "a sum is over fewer silos than the charter's minimum"),
    "sum-undrawn": ("sums", "a silo is in a sum whose round isn't drawn for it"),
    "sum-without-quorum": ("sums", "too few silos agreed on whom a sum is over"),
    "agreement-unsigned": ("sums", "an agreement has a wrong signature"),
    "agreement-differs": ("sums", "an agreement is on another set of silos"),
    "advert-missing": ("sums", "who took part in an attempt isn't there"),
    "adverts-differ": ("sums", "the adverts aren't those that the silos agreed on"),
    "advert-unsigned": ("sums", "an advert has a wrong signature"),
    "transcript-unsigned": ("sums", "the aggregator didn't sign what it sent"),
    "transcript-malformed": ("sums", "a frame of the transcript can't be read"),
    "intent-missing": ("charges", "a silo is in a sum, and didn't charge it before"),
    "intent-on-another-state": ("charges", "a charge is for another adapter"),
    "update-uncommitted": (
        "charges",
        "a silo is in a sum, and its ledger has no update",
    ),
    "mask-unrecorded": ("charges", "a silo is in a sum that its ledger doesn't know"),
    "void-in-sum": ("charges", "a sum is of an attempt that a quorum had closed"),
    "release-differs": ("charges", "a ledger says something else of a release"),
    "release-unknown": ("charges", "a ledger has a release that the rounds don't have"),
    "state-malformed": ("adapters", "the initial state isn't the charter's"),
    "state-differs": ("adapters", "a state doesn't follow from the sum"),
    "adapter-differs": ("adapters", "an adapter isn't the state that was certified"),
    "cap-exceeded": ("caps", "the charges cost more than the cap in force"),
    "cap-unsigned": ("caps", "a change of the cap isn't signed by the operator"),
    "claim-unsigned": ("epsilon", "a claim isn't signed by its silo"),
    "claim-of-another-head": ("epsilon", "a claim is about other charges than these"),
    "epsilon-differs": (
        "epsilon",
        "a claim states another epsilon than its charges have",
    ),
    "accountants-disagree": ("epsilon", "PLD and PRV differ, or RDP is below them"),
}
"""Every kind of fault: the claim that it breaks, and what it means."""

BELIEVED: Final[tuple[str, ...]] = (
    (
        "That each silo drew its noise, and clipped before it: the canary audit can show a "
        "silo that doesn't, never one that does."
    ),
    (
        "That the records were who the silo says they are, and that nobody tuned on them "
        "elsewhere."
    ),
    (
        "That fewer silos than the charter's limit work together with the aggregator: the "
        "sums alone don't show it."
    ),
    "That each machine kept its keys, and ran the software that its ledger names.",
)
"""What no bundle can prove."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. `where` is a file, a silo, an entry or a round."""

    code: str
    where: str
    what: str

    def __post_init__(self) -> None:
        if self.code not in FAULTS:
            raise ValueError(f"there is no fault {self.code!r}")

    @property
    def claim(self) -> str:
        return FAULTS[self.code][0]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of one claim.

    `holds`: everything that it needs was there, and is right. `fails`: see the faults.
    `not shown`: nothing contradicts it, but evidence is missing; `lacks` says which.
    """

    claim: str
    result: Literal["holds", "fails", "not shown"]
    faults: tuple[Fault, ...] = ()
    lacks: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        return CLAIMS[self.claim]


def verdicts(
    faults: Iterable[Fault], lacks: Mapping[str, tuple[str, ...]]
) -> tuple[Verdict, ...]:
    """One verdict for each claim, in their order."""
    found = list(faults)
    return tuple(
        _verdict(
            claim, tuple(f for f in found if f.claim == claim), lacks.get(claim, ())
        )
        for claim in CLAIMS
    )


def _verdict(claim: str, faults: tuple[Fault, ...], lacks: tuple[str, ...]) -> Verdict:
    result: Literal["holds", "fails", "not shown"] = "holds"
    if faults:
        result = "fails"
    elif lacks:
        result = "not shown"
    return Verdict(claim, result, faults, lacks)
