"""What the charges cost, against the cap in force and against what the silo signed.

Recomputed from the entries alone. Equal charges are counted together, so silos and runs of
one plan are accounted once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from fedit_secure.audit.bundle import Bundle
from fedit_secure.audit.facts import Cost
from fedit_secure.audit.findings import Fault
from fedit_secure.audit.histories import Charge, History, Terms
from fedit_secure.errors import ConfigError
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.claim import Claim, Stated
from fedit_secure.privacy.mechanisms import steps_event
from fedit_secure.secagg.keys import BadSignature, verify

if TYPE_CHECKING:
    from dp_accounting import DpEvent

TOLERANCE = 1e-6
"""By which two machines' epsilons may differ."""
_MAX_GAP = 0.02  # between PLD and PRV
_MESH = 3e-4  # what PLD's mesh may add above RDP, which needs none
_SMALL = 64 << 10


def cost(charges: Sequence[tuple[Terms, int]], delta: float) -> Cost:
    """The epsilons of so many charges on each of these terms."""
    from fedit_secure.privacy.accountant import spent_epsilons

    found = spent_epsilons(_event(charges), delta)
    return Cost(delta, found.pld, found.prv, found.rdp, found.published)


def counted(charges: Sequence[Charge]) -> list[tuple[Terms, int]]:
    """How many charges there are on each terms, in order of the first."""
    found: dict[Terms, int] = {}
    for charge in charges:
        found[charge.terms] = found.get(charge.terms, 0) + 1
    return list(found.items())


def run_cost(charter: Charter, silo: str) -> Cost | None:
    """What the whole plan costs at the charter's delta, spares included."""
    plan = charter.plan_for(silo)
    if plan.delta is None:
        return None
    from fedit_secure.privacy.accountant import spent_epsilons

    found = spent_epsilons(plan.run_event(), plan.delta)
    return Cost(plan.delta, found.pld, found.prv, found.rdp, found.published)


def foresee(charter: Charter, history: History) -> None:
    """Ask the accountants, who remember it, while other processes read rounds."""
    if history.opened is not None:
        run_cost(charter, history.silo)
        cost(counted(history.charges), history.opened.delta)


def filtered(
    history: History, charges: Sequence[Charge], planning: str
) -> float | None:
    """What stood against the cap once `charges` were made: the Renyi filter's epsilon.

    The first charter counts whole, and the one that is `planning` too. None while there is
    but one charter, whose published epsilon decides.
    """
    opened = history.opened
    assert opened is not None
    if not charges or all(c.charter == charges[0].charter for c in charges):
        return None
    from fedit_secure.privacy.renyi import filter_epsilon

    made: dict[tuple[str, Terms], int] = {}
    for charge in charges:
        made[charge.charter, charge.terms] = (
            made.get((charge.charter, charge.terms), 0) + 1
        )
    whole = {charges[0].charter, planning}
    event = _event(
        [
            (terms, terms.charges if charter in whole else count)
            for (charter, terms), count in made.items()
        ]
    )
    return filter_epsilon(event, opened.filter_order, opened.delta)


def check_caps(history: History) -> Iterator[Fault]:
    """At each beginning of a charter, and at each charge after a change of the cap."""
    opened = history.opened
    assert opened is not None
    for entry in history.unsigned:
        where = f"ledger of {history.silo}, entry {entry}"
        yield Fault("cap-unsigned", where, "it isn't signed by the silo's operator")
    begun: set[str] = set()
    changes = [entry for entry, _ in history.caps[1:]]
    for n, charge in enumerate(history.charges, 1):
        changed = bool(changes) and changes[0] < charge.entry
        while changes and changes[0] < charge.entry:
            changes.pop(0)
        if charge.charter in begun and not changed:
            continue
        begun.add(charge.charter)
        cap = cap_at(history, charge.entry)
        if cap is None:
            continue
        needed = filtered(history, history.charges[:n], charge.charter)
        if needed is None:
            needed = cost(
                [(charge.terms, charge.terms.charges)], opened.delta
            ).published
        if needed > cap + TOLERANCE:
            where = f"ledger of {history.silo}, entry {charge.entry}"
            what = (
                f"run {charge.terms.run!r} brings the records to epsilon {needed:.4g} at "
                f"delta {opened.delta:g}, above the cap of {cap:.4g}"
            )
            yield Fault("cap-exceeded", where, what)
            return


def cap_at(history: History, entry: int) -> float | None:
    """The lifetime cap in force at an entry, None for none."""
    return [cap for since, cap in history.caps if since <= entry][-1]


def check_run(charter: Charter, silo: str, run: Cost | None) -> Iterator[Fault]:
    """The charter's noise gives the epsilon that it names, and the accountants agree."""
    where = f"charter, silo {silo}"
    if run is None:
        return
    if run.pld is not None and run.prv is not None:
        apart = run.pld != run.prv and abs(run.pld - run.prv) > _MAX_GAP
        if apart or run.rdp < run.pld - _MESH:
            what = f"PLD says {run.pld:.6f}, PRV {run.prv:.6f}, RDP {run.rdp:.6f}"
            yield Fault("accountants-disagree", where, what)
    named = charter.dp.epsilon
    if named is not None and run.published > named + TOLERANCE:
        what = f"it names epsilon {named:g}, and its noise gives {run.published:.6g}"
        yield Fault("epsilon-differs", where, what)


def read_claim(
    bundle: Bundle, charter: Charter, silo: str
) -> tuple[Claim | None, list[Fault]]:
    """A silo's claim, if it is there and signed."""
    where = f"claims/{silo}.claim"
    data = bundle.read(where, _SMALL)
    if data is None:
        return None, []
    try:
        claim = Claim.from_bytes(data, where)
        key = bytes.fromhex(charter.row(silo).identity)
        verify(key, claim.signed_digest(), bytes.fromhex(claim.signature))
    except ConfigError as wrong:
        return None, [Fault("claim-unsigned", where, str(wrong))]
    except BadSignature:
        return None, [Fault("claim-unsigned", where, f"{silo} didn't sign it")]
    return claim, []


def check_claim(
    own: str, history: History, claim: Claim, run: Cost | None
) -> Iterator[Fault]:
    """A claim says of exactly the charges below its head what they cost.

    `own`: the charter's digest in hex.
    """
    opened, where = history.opened, f"claims/{history.silo}.claim"
    assert opened is not None
    about = (claim.silo, claim.population, claim.charter, claim.unit)
    due = (history.silo, opened.population, own, opened.unit)
    if about != due:
        what = "it is of another silo, population, charter or unit"
        yield Fault("claim-of-another-head", where, what)
        return
    if claim.sequence > history.entries:
        # Its silo signed more than is here, and wasn't asked for less.
        what = f"it has {history.entries} entries, and its silo claims {claim.sequence}"
        yield Fault("ledger-cut", f"ledger of {history.silo}", what)
        return
    if history.hashes[claim.sequence].hex() != claim.hash:
        what = f"its head of {claim.sequence} entries isn't on the ledger"
        yield Fault("claim-of-another-head", where, what)
        return
    charged = {c.entry for c in history.of(own)}
    left = sorted(entry for entry in charged if entry > claim.sequence)
    if left:
        what = f"it leaves out the charge at entry {left[0]}"
        yield Fault("claim-of-another-head", where, what)
        return
    made = [c for c in history.charges if c.entry <= claim.sequence]
    yield from _compare(
        where, "all charges", claim.lifetime, cost(counted(made), opened.delta)
    )
    if (run is None) != (claim.run is None):
        yield Fault("epsilon-differs", where, "it is of a plan with, or without, DP")
    elif run is not None and claim.run is not None:
        yield from _compare(where, "the run", claim.run, run)


def _compare(where: str, of: str, said: Stated, found: Cost) -> Iterator[Fault]:
    pairs: Mapping[str, tuple[float | None, float | None]] = {
        "delta": (said.delta, found.delta),
        "PLD": (said.pld, found.pld),
        "PRV": (said.prv, found.prv),
        "RDP": (said.rdp, found.rdp),
        "the published figure": (said.published, found.published),
    }
    for name, (stated, computed) in pairs.items():
        if not _same(stated, computed):
            what = f"of {of} it states {name} {stated}, and they have {computed}"
            yield Fault("epsilon-differs", where, what)
            return


def _same(stated: float | None, computed: float | None) -> bool:
    finite = None if computed is None or math.isinf(computed) else computed
    if stated is None or finite is None:
        return stated is finite
    return abs(stated - finite) <= TOLERANCE * max(1.0, abs(finite))


def curve(history: History, delta: float, points: int) -> tuple[tuple[int, float], ...]:
    """(charges, epsilon so far) at no more than `points` numbers of charges."""
    charges = history.charges
    steps = min(len(charges), points - 1)
    if steps < 1:
        return ()
    at = sorted({round(k * len(charges) / steps) for k in range(steps + 1)})
    return tuple(
        (n, cost(counted(charges[:n]), delta).published if n else 0.0) for n in at
    )


def _event(charges: Sequence[tuple[Terms, int]]) -> DpEvent:
    import dp_accounting as dpa

    # One event for all charges of the same rate and noise, whatever run they were for.
    steps: dict[tuple[float, float], int] = {}
    for terms, count in charges:
        key = (
            terms.sample_rate,
            terms.noise_multiplier if terms.dp == "local" else 0.0,
        )
        steps[key] = steps.get(key, 0) + terms.steps * count
    return dpa.ComposedDpEvent(
        [steps_event(rate, sigma, n) for (rate, sigma), n in sorted(steps.items())]
    )
