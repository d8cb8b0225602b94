"""One release: the two tables that order its steps, and the whole of it as one loop.

Bonawitz et al., *Practical Secure Aggregation* (CCS 2017), active-adversary form, with
the bindings, blame and verifiable sum of docs/protocol.md. The steps stand in paper order
in silo_steps.py and aggregator_steps.py. Every step is a pure function of a frozen state, a
message and (silos) a source of random bytes; it returns the next state and the effects to
perform, in order. A pair that no table holds is a `ProtocolError`, so no message is
answered twice.

Guarantees, whatever the aggregator does while at most `corrupt` silos help it: per attempt
it learns at most one sum, over at least `minimum` updates that start from one global
state. Not guaranteed: delivery, and that a silo's own input is honest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from fedit_secure.errors import FaultyAggregator, ProtocolError
from fedit_secure.secagg import aggregator_steps as a
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import silo_steps as u
from fedit_secure.secagg import states as s
from fedit_secure.secagg.checks import blame
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.transcript import Signed

Step = TypeVar("Step")
open_attempt, voided, confirmation = a.open_attempt, u.voided, u.confirmation

SILO: dict[tuple[type, type], Callable[..., u.SiloStep]] = {
    (s.Invited, m.Offer): u.advertise,
    (s.Advertised, m.AdvertSet): u.share,
    (s.Shared, m.ShareSet): u.mask,
    (s.Masked, m.UploadAck): u.note_ack,
    (s.Masked, m.SurvivorSet): u.agree,
    (s.Agreed, m.AgreementSet): u.reveal,
    (s.Revealed, m.PublishedSum): u.verify_sum,
    (s.Verified, m.StateApplied): u.confirm,
}
for _state in (s.Invited, s.Advertised, s.Shared, s.Masked, s.Agreed):
    SILO[_state, m.VoidRequest] = SILO[_state, m.Deadline] = u.void

_PHASES: list[tuple[type, type, Callable[..., a.AggregatorStep]]] = [
    (s.Gathering, m.Advert, a.collect_advert),
    (s.Sharing, m.ShareBundle, a.collect_bundle),
    (s.Masking, m.MaskedUpload, a.collect_upload),
    (s.Agreeing, m.Agreement, a.collect_agreement),
    (s.Revealing, m.Reveal, a.collect_reveal),
    (s.Published, m.Confirmation, a.collect_confirmation),
]
_FROM_SILO = (*(row[1] for row in _PHASES), m.VoidStatement)
AGGREGATOR: dict[tuple[type, type], Callable[..., a.AggregatorStep]] = {}
for _i, (_phase, _answer, _step) in enumerate(_PHASES):
    AGGREGATOR[_phase, _answer] = _step
    AGGREGATOR[_phase, m.Deadline] = a.move_on
    AGGREGATOR[_phase, m.Lost] = AGGREGATOR[_phase, m.VoidStatement] = a.lose
    for _later in (*(row[0] for row in _PHASES[_i + 1 :]), s.Voiding):
        AGGREGATOR[_later, _answer] = a.ignore
AGGREGATOR |= {
    # A silo that was lost, or closed the attempt, may still confirm what others verified.
    (s.Published, m.Lost): a.ignore,
    (s.Published, m.VoidStatement): a.ignore,
    (s.Voiding, m.VoidStatement): a.collect_void,
    (s.Voiding, m.Deadline): a.end_voiding,
    (s.Voiding, m.Lost): a.ignore,
}


def silo_step(
    state: s.SiloState, message: m.Message, rand: u.RandomBytes
) -> u.SiloStep:
    """One transition of a silo. Raises ProtocolError and its kinds that name a suspect."""
    step, inside = _find(SILO, state, message), cast("s.Voidable", state)
    with blame(FaultyAggregator):
        if isinstance(message, Signed):
            checks.by_aggregator(inside.start.session, message)
        return step(state, message, rand)


def aggregator_step(state: s.AggregatorState, message: m.Message) -> a.AggregatorStep:
    """One transition of the aggregator. Raises ProtocolError and its kinds.

    The caller has made sure that a silo's message came over that silo's own link.
    """
    if isinstance(state, s.Certified | s.Ended):
        return state, ()
    said: Any = getattr(message, "statement", getattr(message, "header", message))
    if not checks.same(state.session, said, "charter", "round", "ctx"):
        return state, ()  # an honest silo's late message of an earlier attempt
    step = _find(AGGREGATOR, state, message)
    if not isinstance(message, _FROM_SILO):
        return step(state, message)
    with blame(ProtocolError):  # whoever sent it, it needn't be whom it names
        checks.signed(state.session.roster, said)
    if isinstance(state, s.Phase) and not isinstance(message, m.VoidStatement):
        fresh = said.silo in state.asked and said.silo not in state.got
        step = step if fresh else a.ignore  # nobody is heard twice in a phase
    with blame(checks.faulty(state.session, said.silo)):
        return step(state, message)


def _find(table: Mapping[tuple[type, type], Step], state: Any, message: Any) -> Step:
    names = type(state).__name__, type(message).__name__
    if (type(state), type(message)) not in table:
        raise ProtocolError("a party that is {} takes no {}".format(*names))
    return table[type(state), type(message)]


def run_release(
    session: s.Session,
    aggregator_key: SigningKey,
    silos: Mapping[int, s.SiloState],
    rand: u.RandomBytes,
    dies_before: Mapping[int, type] | None = None,
) -> tuple[s.AggregatorState, dict[int, s.SiloState]]:
    """One release in memory: figure, documentation and test oracle.

    `dies_before` maps a silo to the type of message that it no longer sends. Returns the
    last state of the aggregator (Certified if a sum came out) and of every silo.
    """
    states, dead = dict(silos), dict(dies_before or {})
    state, effects = open_attempt(session, aggregator_key, silos)
    mail: deque[tuple[int | None, m.Message]] = deque()
    at: int | None = None  # whose step made the effects; None: the aggregator's
    while True:
        for effect in effects:
            if isinstance(effect, m.Send):
                mail.append((effect.to, effect.message))
            elif isinstance(effect, m.Release) and at is None:
                mail.extend((i, effect.published) for i in states)
            elif isinstance(effect, m.Release):  # the sum itself stands for the state
                mail.append((at, m.StateApplied(effect.published.release_digest())))
        if not mail and isinstance(state, s.Certified | s.Ended):
            return state, states
        at, message = mail.popleft() if mail else (None, m.Deadline())
        effects = ()
        if at is None:
            state, effects = aggregator_step(state, message)
        elif at in states and (type(states[at]), type(message)) in SILO:
            states[at], effects = silo_step(states[at], message, rand)
            if any(type(getattr(e, "message", None)) is dead.get(at) for e in effects):
                del states[at]
                effects = ()
