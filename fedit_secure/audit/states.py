"""Every state again, from the first and the published sums, to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fedit_secure.audit.bundle import AdapterDigests, Bundle
from fedit_secure.audit.findings import Fault
from fedit_secure.audit.rounds import Ended, Terms, read_sum
from fedit_secure.errors import ConfigError, MalformedMessage, ProtocolError
from fedit_secure.federation.adapter_digests import adapter_of
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.update import GridState, apply_update

_HEADER = 1 << 24  # bytes of a state's names and shapes, at most


@dataclass(slots=True)
class Followed:
    """What following the sums showed. `last`: the final state, where all could be."""

    last: GridState | None = None
    faults: list[Fault] = field(default_factory=list)
    lacks: list[str] = field(default_factory=list)


def follow(
    bundle: Bundle, charter: Charter, terms: Terms, rounds: Sequence[Ended]
) -> Followed:
    """Apply every sum to the state before it, and compare with what was certified.

    Stops at the first state that can't be known. Raises ConfigError as `Bundle.read`.
    """
    found = Followed()
    written = _adapters(bundle, found)
    state = _initial(bundle, charter, found)
    for ended in rounds:
        if state is None:
            return found
        state = _after(bundle, charter, terms, ended, state, found)
        due = written.get(str(ended.round))
        if state is not None and due is not None and adapter_of(state) != due:
            what = "its adapter isn't the state that the round ended in"
            found.faults.append(Fault("adapter-differs", f"round {ended.round}", what))
    found.last = state
    return found


def _initial(bundle: Bundle, charter: Charter, found: Followed) -> GridState | None:
    name = "initial.state"
    data = bundle.read(name, 8 * charter.state_length + _HEADER)
    if data is None:
        found.lacks.append(name)
        return None
    try:
        state = GridState.from_bytes(data)
    except MalformedMessage as wrong:
        found.faults.append(Fault("state-malformed", name, str(wrong)))
        return None
    if state.digest().hex() != charter.adapter.initial_digest:
        what = "it isn't the state that the charter names"
        found.faults.append(Fault("state-malformed", name, what))
        return None
    return state


def _after(
    bundle: Bundle,
    charter: Charter,
    terms: Terms,
    ended: Ended,
    state: GridState,
    found: Followed,
) -> GridState | None:
    where = f"round {ended.round}"
    if not ended.state or (ended.release and not ended.ctx):
        return None  # the fault is in the round
    if ended.release:
        sum_of = read_sum(bundle, terms, ended.round)
        assert sum_of is not None
        total = np.frombuffer(sum_of, dtype="<i4").astype(np.int32, copy=False)
        try:
            state = apply_update(
                state,
                total,
                terms.params,
                ended.contributors,
                charter.update_rule,
                charter.released(ended.round),
            )
        except ProtocolError as wrong:
            found.faults.append(Fault("state-differs", where, str(wrong)))
            return None
    if state.digest() != ended.state:
        what = (
            "the state that was certified isn't the one before it plus the mean update"
            if ended.release
            else "it was skipped, and the state changed"
        )
        found.faults.append(Fault("state-differs", where, what))
        return None
    return state


def _adapters(bundle: Bundle, found: Followed) -> dict[str, str]:
    name = "adapters.json"
    data = bundle.read(name, AdapterDigests.most_bytes)
    if data is None:
        found.lacks.append(name)
        return {}
    try:
        return AdapterDigests.from_bytes(data, name).by_round
    except ConfigError as wrong:
        found.faults.append(Fault("adapter-differs", name, str(wrong)))
        return {}
