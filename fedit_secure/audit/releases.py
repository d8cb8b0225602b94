"""Whether the ledgers and the rounds tell one story, charge by charge.

The advert that brings a silo into an attempt carries its ledger's head. So an intent at or
before that head was durable, and known to everybody, before the sum that the silo is in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fedit_secure.audit.findings import Fault
from fedit_secure.audit.histories import History, Key, Terms
from fedit_secure.audit.rounds import Ended
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.cohort import Cohorts
from fedit_secure.privacy.events import Intent


def check_plan(charter: Charter, own: str, history: History) -> Iterator[Fault]:
    """Every charge under this charter is on its terms; others are taken as entered.

    `own`: the charter's digest in hex.
    """
    row = charter.row(history.silo)
    charges = history.of(own)
    if not charges:
        return
    planned = Intent.of(
        charter.plan_for(history.silo),
        charter=own,
        run=charter.run,
        round=1,
        state_digest=own,
        weight=row.weight,
        dtype="float32",
    )
    terms = Terms.of(planned)
    where = f"ledger of {history.silo}"
    # All charges of a charter are on the same terms, or the ledger was refused.
    found = charges[0].terms
    for name in Terms.__slots__:
        said, due = getattr(found, name), getattr(terms, name)
        if said != due:
            what = f"its charges have {name} {said}, and the charter {due}"
            yield Fault("plan-differs", where, what)
    opened = history.opened
    assert opened is not None
    if (charter.dp.sizes == "public") != (opened.adjacency == "zero-out"):
        what = f"the ledger is of {opened.adjacency}, the charter's sizes are "
        yield Fault("plan-differs", where, what + charter.dp.sizes)
    index, cohorts = charter.silo_index(history.silo), Cohorts(charter)
    for round in sorted({charge.round for charge in charges}):
        if not cohorts.takes(round, index):
            what = f"it charged round {round}, which isn't drawn for it"
            yield Fault("charge-undrawn", where, what)
    last = max(charge.round for charge in charges)
    if last > charter.rounds:
        what = f"it charged round {last} of {charter.rounds}"
        yield Fault("plan-overrun", where, what)


def check_charges(
    charter: Charter,
    own: str,
    rounds: Sequence[Ended],
    histories: Mapping[str, History],
    states: Mapping[int, bytes],
) -> Iterator[Fault]:
    """Every silo in every sum had charged for it, and says the same of what came of it.

    `own`: the charter's digest in hex. `histories`: the ledgers that are sound, by silo.
    `states`: the state before each round, where it is known.
    """
    quorum, cohorts = charter.secagg_params().threshold, Cohorts(charter)
    intents = {name: _states_of(history, own) for name, history in histories.items()}
    for ended in rounds:
        shown = {index: (sequence, hash) for index, sequence, hash in ended.heads}
        for index in ended.contributors:
            name, (sequence, hash) = charter.roster[index].name, shown[index]
            history = histories.get(name)
            if history is None or not history.leads_to(sequence, hash):
                continue  # the fault is in the head, which may have an intent or not
            charged = intents[name].get(ended.round, [])
            where = (ended, history, (own, ended.round), charged, sequence)
            yield from _contribution(*where, states.get(ended.round))
        drawn = cohorts.names(ended.round)
        closing = [histories[name] for name in drawn if name in histories]
        yield from _voided(ended, closing, quorum)
        if ended.state:
            names = tuple(sorted(charter.roster[i].name for i in ended.contributors))
            for history in histories.values():
                yield from _said(ended, names, history, (own, ended.round))
    known = {ended.round for ended in rounds if ended.state and ended.release}
    unread = {ended.round for ended in rounds if not ended.state}
    for name, history in histories.items():
        for charter_of, round in history.releases:
            if charter_of == own and round not in known | unread:
                what = f"it has a release of round {round}, and the rounds have none"
                yield Fault("release-unknown", f"ledger of {name}", what)


def _states_of(history: History, charter: str) -> dict[int, list[tuple[int, str]]]:
    found: dict[int, list[tuple[int, str]]] = {}
    for charge in history.of(charter):
        found.setdefault(charge.round, []).append((charge.entry, charge.state))
    return found


def _contribution(
    ended: Ended,
    history: History,
    key: Key,
    charged: list[tuple[int, str]],
    head: int,
    before: bytes | None,
) -> Iterator[Fault]:
    where = f"ledger of {history.silo}, round {ended.round}"
    in_time = [(entry, state) for entry, state in charged if entry <= head]
    if not in_time:
        what = "it is in the sum, and its advert's head has no intent for it"
        yield Fault("intent-missing", where, what)
        return
    if before is not None and in_time[-1][1] != before.hex():
        what = "its intent is for another adapter than the round began with"
        yield Fault("intent-on-another-state", where, what)
    if history.commits.get(key, head + 1) > head:
        what = "it is in the sum, and had entered no update when it advertised"
        yield Fault("update-uncommitted", where, what)
        return
    ctx = ended.ctx.hex()
    # A silo that died may have voided it by itself, and be in the sum all the same: the
    # others gave its shares. Only what a quorum closed can have no sum.
    if ctx in history.renewed:
        what = "it is in the sum of an attempt that a quorum had closed"
        yield Fault("void-in-sum", where, what)
    elif ctx not in history.masks and _went_on(history, key):
        what = "it is in the sum of an attempt that its ledger doesn't know"
        yield Fault("mask-unrecorded", where, what)


def _voided(ended: Ended, histories: Sequence[History], quorum: int) -> Iterator[Fault]:
    """A quorum of void entries closes an attempt as their statements do. `histories`: of
    the silos that the round is drawn for."""
    ctx = ended.ctx.hex()
    voided = sum(ctx in history.voids for history in histories)
    if ctx and voided >= quorum:
        what = f"it ended in a sum of an attempt that {voided} ledgers call void"
        yield Fault("void-in-sum", f"round {ended.round}", what)


def _went_on(history: History, key: Key) -> bool:
    """Whether the ledger goes beyond this round: then it must know what came of it."""
    charter, round = key
    over = key in history.releases or key in history.aborted
    return over or any(charge.round > round for charge in history.of(charter)[-1:])


def _said(
    ended: Ended, names: tuple[str, ...], history: History, key: Key
) -> Iterator[Fault]:
    """`names`: of the silos in the round's sum, sorted."""
    where = f"ledger of {history.silo}, round {ended.round}"
    said = history.releases.get(key)
    if not ended.release:
        return  # whoever has a release of it is told below
    if key in history.aborted:
        yield Fault("release-differs", where, "it says that the round brought no sum")
    if said is None:
        return
    if (said.release, said.state) != (ended.release.hex(), ended.state.hex()):
        what = "it names another release, or another state after it"
        yield Fault("release-differs", where, what)
        return
    if not ended.ctx:
        return  # the sum itself is at fault
    if said.contributors is not None and said.contributors != names:
        yield Fault("release-differs", where, "it names other silos in the sum")
    elif said.sum is not None and said.sum != ended.total.hex():
        yield Fault("release-differs", where, "it names another sum")
