"""What the tests for leakage found, in words that a silo's operator can act on.

Sentences hold counts, shares and places in files. They never hold a record's text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedit_secure.audit.leakage.extraction import Extraction
from fedit_secure.audit.leakage.membership import Membership, Verdict
from fedit_secure.audit.leakage.names import LEAST, Names
from fedit_secure.audit.leakage.trial import Leakage
from fedit_secure.privacy.plan import COUNTED

_BEFORE_A_NEXT_RUN = (
    "What this adapter holds can't be taken out of it, and who has it keeps it: hand it "
    "on no further. For the next run, run `fedit data check` and take out duplicates, let "
    "the plan's epsilon be smaller, and let the unit be the person if the records name "
    "persons."
)
_NO_PROOF = (
    "That isn't proof: there are stronger attacks than these, and what holds against all "
    "of them is epsilon alone."
)


QUESTIONS = {
    "membership": "Does the adapter show which records it was tuned on?",
    "extraction": "Does it recite responses?",
    "names": "Does it join names or numbers to their records?",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One test: what was tried and found, what that means, what to do."""

    test: str
    verdict: Verdict
    tried: str
    found: str
    means: str
    do: str


def findings(leakage: Leakage) -> tuple[Finding, ...]:
    """One finding for each test, also for one that couldn't be made."""
    units = COUNTED[leakage.unit]
    return (
        _membership(leakage.membership, units),
        _extraction(leakage.extraction, units),
        _names(leakage.names),
    )


# --------------------------------------------------------------------------- membership


def _membership(told: Membership | None, units: str) -> Finding:
    if told is None:
        return Finding(
            "membership",
            "not tested",
            "Nothing: there are no held-out records.",
            "Nothing.",
            "Whether the adapter shows which records it was tuned on can't be said: nobody "
            "knows how it treats records of this kind that it never saw.",
            "Give --holdout a file of such records, which were in no silo's data. Before "
            "the next run, keep a random tenth of the records back for this.",
        )
    best = max(told.attacks, key=lambda attack: attack.low)
    return Finding(
        "membership",
        told.verdict,
        f"To tell {told.members} {units} that the adapter was tuned on from {told.others} "
        f"held out, by {len(told.attacks)} scores: "
        f"{', '.join(attack.name for attack in told.attacks)}.",
        f"Of all pairs of one of each, the score puts the right one first in "
        f"{_share(best.area)} ({best.name}; between {_share(best.low)} and "
        f"{_share(best.high)} with all scores' intervals holding together at 95 %). "
        f"Guessing does in 50 %. {_implied(told)}",
        _membership_means(told, units),
        _membership_do(told),
    )


def _implied(told: Membership) -> str:
    if not told.implied:
        return "No rate of hits and false alarms implies an epsilon above 0."
    return f"The rates of hits and false alarms imply an epsilon of {told.implied:.2g}."


def _allowed(told: Membership) -> str:
    if told.epsilon == math.inf:
        return (
            "The run had no differential privacy, so nothing bounds what can be told."
        )
    return (
        f"The charter's epsilon of {told.epsilon:.3g} would let the best attack that there "
        f"can be reach {_share(told.most_area)}."
    )


def _membership_means(told: Membership, units: str) -> str:
    if told.verdict == "nothing found":
        kind = f" {_of_another_kind(told)}" if told.differ else ""
        return (
            f"These scores don't show which {units} it was tuned on; {_share(told.noticeable)}"
            f" or more would have been noticed.{kind} {_NO_PROOF} {_allowed(told)}"
        )
    if told.verdict == "unclear":
        return (
            f"{_of_another_kind(told)} What the adapter tells apart may be that: to have "
            f"learnt the silo's kind of record is no memory of any. {_allowed(told)}"
        )
    if told.beyond_the_claim:
        return (
            f"The adapter shows which {units} it was tuned on, and more clearly than the "
            f"charter's epsilon of {told.epsilon:.3g} allows. Records may occur several "
            "times or be a person's several, the held-out ones may differ in kind, or the "
            "noise isn't what it should be. One run is no proof of that."
        )
    best = max(attack.area for attack in told.attacks)
    clearly = "plainly" if best > 0.9 else "to some degree"
    agreed = " So it keeps within what was agreed." if told.epsilon < math.inf else ""
    return (
        f"The adapter shows {clearly} which {units} it was tuned on, if the held-out ones "
        f"are a random part of the same records. {_allowed(told)}{agreed}"
    )


def _of_another_kind(told: Membership) -> str:
    control = told.plainest
    return (
        "The held-out records are of another kind: what saw neither tells them apart, too "
        f"({control.name}: {_share(control.area)})."
    )


def _membership_do(told: Membership) -> str:
    if told.verdict == "nothing found":
        return (
            "Nothing. With more records, also held out, smaller leaks are noticed: "
            "--records."
        )
    if told.verdict == "unclear":
        return (
            "Hold out a random part of the silo's own records next time, instead of "
            "records from elsewhere or from another time."
        )
    if told.beyond_the_claim:
        return (
            "Hand the adapter on no further. Run `fedit data check`: duplicates are "
            "protected less. Test the noise by `fedit audit canary`, and have the run "
            "checked by `fedit audit verify`."
        )
    return (
        "If that a record was used is itself a secret (a diagnosis, a customer), ask for a "
        "smaller epsilon, or the person as the unit. Look at the records below: duplicates "
        "are shown most."
    )


# --------------------------------------------------------------------------- extraction


def _extraction(back: Extraction, units: str) -> Finding:
    own, others = back.members, back.controls
    tried = (
        f"To have {back.length} tokens of a response back, word for word, from its prompt "
        f"and its first {back.prefix} tokens: by {own.tried} {units} of the silo with "
        "responses that are long enough"
        + (f", and {others.tried} held out." if others is not None else ".")
    )
    if not own.tried:
        return Finding(
            "extraction",
            "not tested",
            tried,
            "Nothing.",
            "No response is long enough.",
            "Try fewer tokens: --prefix, --length.",
        )
    found = (
        f"{_of(own.by_adapter, own.tried)} of the silo came back by the adapter and not by "
        f"the base model; {own.by_both} by both. The longest passage had {own.longest} "
        "tokens, whatever it started from."
    )
    if others is not None:
        found += (
            f" Of the held-out: {_of(others.by_adapter, others.tried)}; longest "
            f"{others.longest}."
        )
    if back.chance is not None:
        found += f" Chance alone exceeds that with probability {back.chance:.2g}."
    return Finding(
        "extraction",
        back.verdict,
        tried,
        found,
        _extraction_means(back, units),
        _extraction_do(back),
    )


def _extraction_means(back: Extraction, units: str) -> str:
    if back.verdict == "found":
        return (
            f"The adapter recites {units} of the silo, beyond what it says in the same way "
            "for records that it never saw. Whoever has it can read them out."
        )
    if back.verdict == "unclear":
        if back.controls is None:
            return (
                "What comes back may be remembered, or how all such responses go. Without "
                "held-out records that can't be told."
            )
        if back.explained > 0.5:
            return (
                "More comes back than of held-out records, but those are of another kind: "
                "the adapter may have learnt how the silo's responses go."
            )
        return (
            "More comes back than of held-out records, but not so much that it couldn't be "
            "chance. A single record that is remembered doesn't show in counts."
        )
    if back.members.by_adapter:
        return (
            "What comes back is how such responses go: held-out ones, which it never saw, "
            "come back as often."
        )
    return f"None of these came back. {_NO_PROOF}"


def _extraction_do(back: Extraction) -> str:
    if back.verdict == "found":
        return f"Look at the records below (--show-text). {_BEFORE_A_NEXT_RUN}"
    if back.verdict == "unclear":
        return (
            "Look at the records below (--show-text): if a passage says something of one "
            "person and isn't a set phrase, treat it as found."
        )
    if back.members.by_adapter:
        return (
            "Nothing, if what --show-text prints are set phrases. A passage that says "
            "something of one person is given away all the same."
        )
    return (
        "Nothing. Shorter passages may be tried by --length, more records by --records."
    )


# -------------------------------------------------------------------------------- names


def _names(asked: Names | None) -> Finding:
    if asked is None:
        return Finding(
            "names",
            "not tested",
            "Nothing: no strings were given.",
            "Nothing.",
            "Whether names or numbers are joined to their records wasn't looked at.",
            "Give --secrets a file with one string a line, all of one kind: the names of "
            "persons, say, or case numbers.",
        )
    tried = (
        f"Each of {len(asked.asked)} strings in the place in a response where it stands, "
        f"against all others there ({asked.given} were given)."
    )
    if asked.chance is None:
        return Finding(
            "names",
            "not tested",
            tried,
            "Nothing.",
            f"At least {LEAST} strings must stand, as whole words, in responses that don't "
            "repeat them from their own instruction or input.",
            "Give more strings of the same kind.",
        )
    found = (
        f"{asked.first} of {len(asked.asked)} strings gained most from the adapter in their "
        f"own place; one would by chance. Random pairs do as well with probability "
        f"{asked.chance:.2g}."
    )
    if asked.verdict == "found":
        return Finding(
            "names",
            "found",
            tried,
            found,
            "The adapter joins strings to the records that they stand in. If they're all of "
            "one kind, it remembers them; if not (men's and women's names, say), it may "
            "have learnt which kind goes where.",
            f"Look at the strings that rank first. {_BEFORE_A_NEXT_RUN}",
        )
    return Finding(
        "names",
        "nothing found",
        tried,
        found,
        f"The adapter doesn't complete a record by its own string rather than by another's. "
        f"{_NO_PROOF}",
        "Nothing.",
    )


def _share(value: float) -> str:
    return f"{100 * value:.{1 if value < 0.999 or value == 1 else 2}f} %"


def _of(count: int, total: int) -> str:
    return f"{count} of {total}"
