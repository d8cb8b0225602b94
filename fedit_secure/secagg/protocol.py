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
from typing import Any

from fedit_secure.errors import ProtocolError
from fedit_secure.secagg import aggregator_steps as aggregator
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import silo_steps as silo
from fedit_secure.secagg import states as s
from fedit_secure.secagg.aggregator_steps import AggregatorStep, open_attempt
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.silo_steps import RandomBytes, SiloStep, confirmation, voided
from fedit_secure.secagg.transcript import Signed

__all__ = [
    "AGGREGATOR",
    "SILO",
    "aggregator_step",
    "confirmation",
    "open_attempt",
    "run_release",
    "silo_step",
    "voided",
]

SILO: dict[tuple[type, type], Callable[..., SiloStep]] = {
    (s.Invited, m.Offer): silo.advertise,
    (s.Advertised, m.AdvertSet): silo.share,
    (s.Shared, m.ShareSet): silo.mask,
    (s.Masked, m.UploadAck): silo.note_ack,
    (s.Masked, m.SurvivorSet): silo.agree,
    (s.Agreed, m.AgreementSet): silo.reveal,
    (s.Revealed, m.PublishedSum): silo.verify_sum,
    (s.Verified, m.StateApplied): silo.confirm,
}
for _state in (s.Invited, s.Advertised, s.Shared, s.Masked, s.Agreed):
    SILO[_state, m.VoidRequest] = SILO[_state, m.Deadline] = silo.void

_PHASES: list[tuple[type, type, Callable[..., AggregatorStep]]] = [
    (s.Gathering, m.Advert, aggregator.collect_advert),
    (s.Sharing, m.ShareBundle, aggregator.collect_bundle),
    (s.Masking, m.MaskedUpload, aggregator.collect_upload),
    (s.Agreeing, m.Agreement, aggregator.collect_agreement),
    (s.Revealing, m.Reveal, aggregator.collect_reveal),
    (s.Published, m.Confirmation, aggregator.collect_confirmation),
]
_ANSWERS = tuple(row[1] for row in _PHASES)
AGGREGATOR: dict[tuple[type, type], Callable[..., AggregatorStep]] = {
    (s.Voiding, m.VoidStatement): aggregator.collect_void,
    (s.Voiding, m.Deadline): aggregator.end_voiding,
    (s.Voiding, m.Lost): aggregator.ignore,
}
for _i, (_phase, _message, _step) in enumerate(_PHASES):
    AGGREGATOR[_phase, _message] = _step
    AGGREGATOR[_phase, m.Deadline] = aggregator.move_on
    AGGREGATOR[_phase, m.Lost] = AGGREGATOR[_phase, m.VoidStatement] = aggregator.lose
    for _later in (*(row[0] for row in _PHASES[_i + 1 :]), s.Voiding):
        AGGREGATOR[_later, _message] = aggregator.ignore
# A silo that was lost, or closed the attempt, may still confirm what others verified.
AGGREGATOR[s.Published, m.Lost] = aggregator.ignore
AGGREGATOR[s.Published, m.VoidStatement] = aggregator.ignore


def silo_step(state: s.SiloState, message: m.Message, rand: RandomBytes) -> SiloStep:
    """One transition of a silo. Raises ProtocolError and its kinds that name a suspect."""
    step = SILO.get((type(state), type(message)))
    if step is None:
        names = type(state).__name__, type(message).__name__
        raise ProtocolError("a silo that is {} takes no {}".format(*names))
    if isinstance(message, Signed) and not isinstance(state, s.Confirmed | s.Voided):
        checks.by_aggregator(state.start.session, message)
    return step(state, message, rand)


def aggregator_step(state: s.AggregatorState, message: m.Message) -> AggregatorStep:
    """One transition of the aggregator. Raises ProtocolError and its kinds.

    The caller has made sure that a silo's message came over that silo's own link.
    """
    if isinstance(state, s.Certified | s.Ended):
        return state, ()
    part: Any = getattr(message, "statement", getattr(message, "header", message))
    if not checks.same(state.session, part, "charter", "round", "ctx"):
        return state, ()  # an honest silo's late message of an earlier attempt
    step = AGGREGATOR.get((type(state), type(message)))
    if step is None:
        names = type(state).__name__, type(message).__name__
        raise ProtocolError("an aggregator that is {} takes no {}".format(*names))
    if isinstance(part, Signed):
        checks.signed(state.session.roster, part, ProtocolError)
    if isinstance(state, s.Phase) and isinstance(message, _ANSWERS):
        fresh = part.silo in state.asked and part.silo not in state.got
        step = step if fresh else aggregator.ignore  # nobody is heard twice in a phase
    return step(state, message)


def run_release(
    session: s.Session,
    aggregator_key: SigningKey,
    silos: Mapping[int, s.SiloState],
    rand: RandomBytes,
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
