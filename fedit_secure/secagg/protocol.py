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

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from fedit_secure.errors import FaultyAggregator, FaultySilo, ProtocolError
from fedit_secure.secagg import aggregator_steps as agg
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import silo_steps as silo
from fedit_secure.secagg import states as s
from fedit_secure.secagg.keys import Rand, SigningKey
from fedit_secure.secagg.transcript import Signed

open_attempt, voided, confirmation = agg.open_attempt, silo.voided, silo.confirmation

SILO: dict[tuple[type, type], Callable[..., silo.Step]] = {
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

AGGREGATOR: dict[tuple[type, type], Callable[..., agg.Step]] = {}
for _i, (_phase, (_answer, _collect, _)) in enumerate(agg.PHASES.items()):
    AGGREGATOR |= {(_later, _answer): agg.ignore for _later in [*agg.PHASES][_i + 1 :]}
    AGGREGATOR |= {(_phase, m.Deadline): agg.move_on, (_phase, m.Lost): agg.lose}
    AGGREGATOR |= {(_phase, m.VoidStatement): agg.lose, (_phase, _answer): _collect}


def silo_step(state: s.SiloState, message: m.Message, rand: Rand) -> silo.Step:
    """One transition of a silo. Raises ProtocolError and its kinds that name a suspect."""
    step: Callable[..., silo.Step] = SILO.get((type(state), type(message)), refuse)
    with checks.blame(FaultyAggregator):
        if isinstance(message, Signed) and step is not refuse:
            checks.by_aggregator(silo.start_of(state).session, message)
        return step(state, message, rand)


def aggregator_step(state: s.AggregatorState, message: m.Message) -> agg.Step:
    """One transition of the aggregator. Raises ProtocolError and its kinds.

    The caller has made sure that a silo's message came over that silo's own link.
    """
    said: Any = getattr(message, "statement", getattr(message, "header", message))
    if isinstance(state, s.Certified | s.Ended):
        return state, ()
    if not checks.same(state.session, said, "charter", "round", "ctx"):
        return state, ()  # an honest silo's late message of an earlier attempt
    step: Callable[..., agg.Step] = AGGREGATOR.get((type(state), type(message)), refuse)
    if step is refuse or isinstance(message, m.Lost | m.Deadline):
        return step(state, message)
    with checks.blame(ProtocolError):  # whoever sent it, it needn't be whom it names
        checks.signed(state.session.roster, said)
    heard = said.silo not in state.asked or said.silo in state.got
    if heard and step is not agg.lose:
        return state, ()  # nobody is heard twice in a phase
    with checks.blame(FaultySilo, state.session.roster.name(said.silo)):
        return step(state, message)


def refuse(state: Any, message: Any, rand: Rand | None = None) -> NoReturn:
    """The step for every pair that no table holds."""
    raise ProtocolError(f"{type(state).__name__} takes no {type(message).__name__}")


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
            elif isinstance(effect, m.Release):  # the sum itself stands for the state
                mail.append((at, m.StateApplied(effect.published.release_digest)))
        if not mail:
            return state, states
        (at, message), effects = mail.popleft(), ()
        if at is None:
            state, effects = aggregator_step(state, message)
        elif (type(states.get(at)), type(message)) in SILO:
            states[at], effects = silo_step(states[at], message, rand)
