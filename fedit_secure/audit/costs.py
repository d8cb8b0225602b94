"""What the charges cost, against the cap in force.

Recomputed from the entries alone. Equal charges are counted together, so silos and runs of
one plan are accounted once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fedit_secure.audit.facts import Cost
from fedit_secure.audit.findings import Fault
from fedit_secure.audit.histories import Carried, Charge, History
from fedit_secure.federation.charter import Charter
from fedit_secure.privacy.mechanisms import steps_event

if TYPE_CHECKING:
    from dp_accounting import DpEvent

TOLERANCE = 1e-6
"""By which two machines' epsilons may differ."""
_MAX_GAP = 0.02  # between PLD and PRV
_MESH = 3e-4  # what PLD's mesh may add above RDP, which needs none

Steps = Mapping[tuple[float, float], int]
"""How many steps there were of each (sample rate, noise multiplier); 0 is no noise."""


def cost_at(history: History, entry: int) -> Cost:
    """All that counts in a ledger up to an entry, at the ledger's delta.

    What was lost can't be composed, and is added.
    """
    opened = history.opened
    assert opened is not None
    from fedit_secure.privacy.accountant import spent_epsilons

    carried = _carried_at(history, entry)
    made = ((c, 1) for c in history.charges if c.entry <= entry)
    found = spent_epsilons(_event(_steps(made, carried)), opened.delta)
    whole = Cost(opened.delta, found.pld, found.prv, found.rdp, found.published)
    more = sum(part.lost for part in carried)
    if not more:
        return whole
    pld, prv = (None if x is None else x + more for x in (found.pld, found.prv))
    rdp, published = found.rdp + more, found.published + more
    return replace(whole, pld=pld, prv=prv, rdp=rdp, published=published)


def run_cost(charter: Charter, silo: str) -> Cost | None:
    """What the whole plan costs at the charter's delta, spares included."""
    row, dp = charter.row(silo), charter.dp
    if dp.delta is None:
        return None
    from fedit_secure.privacy.accountant import spent_epsilons

    charges = charter.rounds + dp.spare_charges
    steps = {
        (row.dp.sample_rate, row.dp.noise_multiplier): (
            charges * charter.tuning.local_steps
        )
    }
    if charter.evaluation is not None and row.held_out is not None:
        evaluated = 1.0, charter.evaluation.noise_multiplier
        steps[evaluated] = steps.get(evaluated, 0) + charges
    found = spent_epsilons(_event(steps), dp.delta)
    return Cost(dp.delta, found.pld, found.prv, found.rdp, found.published)


def foresee(charter: Charter, history: History) -> None:
    """Ask the accountants, who remember it, while other processes read rounds."""
    if history.opened is not None:
        run_cost(charter, history.silo)
        cost_at(history, history.entries)


def filtered(history: History, entry: int, planning: str) -> float | None:
    """What stood against the cap after an entry: the Renyi filter's epsilon.

    The first charter counts whole, and the one that is `planning` too. None while there is
    but one charter and nothing from elsewhere: then its published epsilon decides.
    """
    opened = history.opened
    assert opened is not None
    carried = _carried_at(history, entry)
    charges = [c for c in history.charges if c.entry <= entry]
    charters = {c.charter for c in charges}
    if not charges or (len(charters) == 1 and not carried):
        return None
    from fedit_secure.privacy.renyi import filter_epsilon

    first = {charge.charter: charge for charge in reversed(charges)}
    times = Counter(charge.charter for charge in charges)
    for charter in {charges[0].charter, planning} & first.keys():
        times[charter] = first[charter].terms.charges
    event = _event(_steps(((first[c], n) for c, n in times.items()), carried))
    # A source's order was fixed before its first release, as this one's was.
    orders = {opened.filter_order, *(c.order for c in carried if c.order is not None)}
    most = max(filter_epsilon(event, order, opened.delta) for order in sorted(orders))
    return most + sum(part.lost for part in carried)


def check_caps(history: History) -> Iterator[Fault]:
    """At each beginning of a charter, and at each charge after the cap, or what counts
    from elsewhere, has changed.
    """
    opened = history.opened
    assert opened is not None
    for entry in history.unsigned:
        where = f"ledger of {history.silo}, entry {entry}"
        yield Fault("cap-unsigned", where, "it isn't signed by the silo's operator")
    changes = [entry for entry, _ in history.caps[1:]]
    changes = sorted([*changes, *(carried.entry for carried in history.carried)])
    begun: set[str] = set()
    for charge in history.charges:
        changed = bool(changes) and changes[0] < charge.entry
        while changes and changes[0] < charge.entry:
            changes.pop(0)
        if charge.charter in begun and not changed:
            continue
        begun.add(charge.charter)
        cap = cap_at(history, charge.entry)
        if cap is None:
            continue
        needed = _needed(history, charge)
        if needed > cap + TOLERANCE:
            where = f"ledger of {history.silo}, entry {charge.entry}"
            what = (
                f"run {charge.terms.run!r} brings the records to epsilon {needed:.4g} at "
                f"delta {opened.delta:g}, above the cap of {cap:.4g}"
            )
            yield Fault("cap-exceeded", where, what)
            return


def _needed(history: History, charge: Charge) -> float:
    """What the whole run of a charge brings the records to."""
    found = filtered(history, charge.entry, charge.charter)
    if found is not None:
        return found
    from fedit_secure.privacy.accountant import spent_epsilons

    assert history.opened is not None
    whole = _event(_steps([(charge, charge.terms.charges)], ()))
    return spent_epsilons(whole, history.opened.delta).published


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


def curve(history: History, points: int) -> tuple[tuple[int, float], ...]:
    """(charges, epsilon so far) at no more than `points` numbers of charges."""
    charges = history.charges
    steps = min(len(charges), points - 1)
    if steps < 1:
        return ()
    at = sorted({round(k * len(charges) / steps) for k in range(steps + 1)})
    # What came from elsewhere before the first charge counts from the start.
    entries = [charges[n - 1].entry if n else charges[0].entry - 1 for n in at]
    return tuple(
        (n, cost_at(history, entry).published)
        for n, entry in zip(at, entries, strict=True)
    )


def _carried_at(history: History, entry: int) -> tuple[Carried, ...]:
    """What counts from elsewhere: every loss, and the last entry of each source."""
    found = [part for part in history.carried if part.entry <= entry]
    last = {part.source: part for part in found if part.source}
    return (*(part for part in found if not part.source), *last.values())


def _steps(charges: Iterable[tuple[Charge, int]], carried: Sequence[Carried]) -> Steps:
    """The steps of so many of each of these charges, and of what was carried over."""
    found: dict[tuple[float, float], int] = {}
    for charge, times in charges:
        terms = charge.terms
        key = (
            terms.sample_rate,
            terms.noise_multiplier if terms.dp == "local" else 0.0,
        )
        found[key] = found.get(key, 0) + terms.steps * times
        if terms.evaluation is not None:
            # No unit is drawn by a coin: each that is held out is in every round's figure.
            evaluated = 1.0, terms.evaluation.noise_multiplier
            found[evaluated] = found.get(evaluated, 0) + times
    for part in carried:
        for rate, sigma, steps in part.steps:
            found[rate, sigma] = found.get((rate, sigma), 0) + steps
    return found


def _event(steps: Steps) -> DpEvent:
    import dp_accounting as dpa

    return dpa.ComposedDpEvent(
        [steps_event(rate, sigma, n) for (rate, sigma), n in sorted(steps.items())]
    )
