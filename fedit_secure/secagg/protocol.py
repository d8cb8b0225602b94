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
from typing import Any, NoReturn

from fedit_secure.errors import FaultyAggregator, FaultySilo, ProtocolError
from fedit_secure.secagg import aggregator_steps as a
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import silo_steps as u
from fedit_secure.secagg import states as s
from fedit_secure.secagg.checks import blame
from fedit_secure.secagg.keys import Rand, SigningKey
from fedit_secure.secagg.transcript import Signed

open_attempt, voided, confirmation = a.open_attempt, u.voided, u.confirmation

SILO: dict[tuple[type, type], Callable[..., u.Step]] = {
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

AGGREGATOR: dict[tuple[type, type], Callable[..., a.Step]] = {}
for _i, (_phase, (_answer, _collect, _)) in enumerate(a.PHASES.items()):
    AGGREGATOR |= {(_later, _answer): a.ignore for _later in [*a.PHASES][_i + 1 :]}
    AGGREGATOR |= {(_phase, m.Deadline): a.move_on, (_phase, m.Lost): a.lose}
    AGGREGATOR |= {(_phase, m.VoidStatement): a.lose, (_phase, _answer): _collect}


def silo_step(state: s.SiloState, message: m.Message, rand: Rand) -> u.Step:
    """One transition of a silo. Raises ProtocolError and its kinds that name a suspect."""
    step: Callable[..., u.Step] = SILO.get((type(state), type(message)), refuse)
    with blame(FaultyAggregator):
        if isinstance(message, Signed) and step is not refuse:
            checks.by_aggregator(u.start_of(state).session, message)
        return step(state, message, rand)


def aggregator_step(state: s.AggregatorState, message: m.Message) -> a.Step:
    """One transition of the aggregator. Raises ProtocolError and its kinds.

    The caller has made sure that a silo's message came over that silo's own link.
    """
    said: Any = getattr(message, "statement", getattr(message, "header", message))
    if isinstance(state, s.Certified | s.Ended):
        return state, ()
    if not checks.same(state.session, said, "charter", "round", "ctx"):
        return state, ()  # an honest silo's late message of an earlier attempt
    step: Callable[..., a.Step] = AGGREGATOR.get((type(state), type(message)), refuse)
    if step is refuse or isinstance(message, m.Lost | m.Deadline):
        return step(state, message)
    with blame(ProtocolError):  # whoever sent it, it needn't be whom it names
        checks.signed(state.session.roster, said)
    if step is not a.lose and (said.silo not in state.asked or said.silo in state.got):
        return state, ()  # nobody is heard twice in a phase
    with blame(FaultySilo, state.session.roster.name(said.silo)):
        return step(state, message)


def refuse(state: Any, message: Any, rand: Rand | None = None) -> NoReturn:
    """The step for every pair that no table holds."""
    names = type(state).__name__, type(message).__name__
    raise ProtocolError("a party that is {} takes no {}".format(*names))


def run_release(
    session: s.Session, key: SigningKey, silos: Mapping[int, s.SiloState], rand: Rand
) -> tuple[s.AggregatorState, dict[int, s.SiloState]]:
    """One release in memory, in which nobody is lost: figure, documentation and oracle.

    `key` is the aggregator's. Returns the last state of the aggregator (Certified) and of
    every silo.
    """
    states, mail = dict(silos), deque[tuple[int | None, m.Message]]()
    state, effects = open_attempt(session, key, silos)
    at: int | None = None  # whose step made the effects; None: the aggregator's
    while True:
        for effect in effects:
            if isinstance(effect, m.Send):
                mail.append((effect.to, effect.message))
            elif isinstance(effect, m.Release) and at is None:
                mail.extend((silo, effect.published) for silo in states)
            elif isinstance(effect, m.Release):  # the sum itself stands for the state
                mail.append((at, m.StateApplied(effect.published.release_digest())))
        if not mail:
            return state, states
        (at, message), effects = mail.popleft(), ()
        if at is None:
            state, effects = aggregator_step(state, message)
        elif (type(states[at]), type(message)) in SILO:
            states[at], effects = silo_step(states[at], message, rand)
