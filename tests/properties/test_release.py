"""Properties over dropout patterns, orders of delivery, and damaged messages."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playbook import SPOKEN, Play, assert_nothing_leaked, assert_released, cast, opened

from fedit_secure.errors import FeditError, ProtocolError
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.protocol import SILO, silo_step

QUICK = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
ENDS = s.Certified | s.Ended


@given(st.data())
@QUICK
def test_any_tolerated_pattern_of_drops_sums_exactly(data):
    silos = data.draw(st.integers(3, 8))
    play = Play(silos, seed=data.draw(st.integers(0, 99)))
    most = silos - play.cast.params.minimum
    gone = data.draw(st.sets(st.integers(0, silos - 1), max_size=most))
    early = (m.Advert, m.ShareBundle, m.MaskedUpload)
    among = set(range(silos))
    for silo in gone:
        stage = data.draw(st.sampled_from(SPOKEN))
        play.drop(stage, sender=silo)
        if stage in early:
            among -= {silo}
    assert_released(play.run(), among)


@given(st.data())
@QUICK
def test_too_many_drops_give_no_sum_and_open_nothing_twice(data):
    silos = data.draw(st.integers(3, 7))
    play = Play(silos)
    least = silos - play.cast.params.minimum + 1
    gone = data.draw(st.sets(st.integers(0, silos - 1), min_size=least))
    stage = data.draw(st.sampled_from((m.Advert, m.ShareBundle, m.MaskedUpload)))
    for silo in gone:
        play.drop(stage, sender=silo)
    play.run()
    assert play.released is None
    assert isinstance(play.aggregator, s.Ended)
    assert opened(play) == set()
    assert_nothing_leaked(play)


def garble(data, play: Play) -> None:
    """Deliver what is under way in any order, some of it twice, some never."""
    for _ in range(400):
        if not play.mail:
            if isinstance(play.aggregator, ENDS) or None in play.errors:
                return
            play.aggregate(m.Deadline())
            continue
        at = data.draw(st.integers(0, len(play.mail) - 1))
        mail = play.mail[at]
        fate = data.draw(st.sampled_from(["deliver"] * 6 + ["twice", "drop"]))
        if fate != "twice":
            del play.mail[at]
        if fate != "drop":
            play._deliver(mail)
    raise AssertionError("400 deliveries, and no end")


@given(st.data())
@QUICK
def test_any_order_of_messages_ends_in_a_release_or_a_named_error(data):
    play = Play(data.draw(st.integers(3, 5)))
    garble(data, play)
    for error in (*play.errors.values(), *play.blame):
        assert isinstance(error, FeditError)  # nothing else ever leaves a step
    # An unreliable network is nobody's crime.
    suspects = {getattr(e, "suspect", None) for e in play.blame}
    assert suspects <= {None}
    if play.released is not None:
        among = play.released.contributors
        np.testing.assert_array_equal(play.released.total, play.plain_sum(among))
        assert len(among) >= play.cast.params.minimum
    assert isinstance(play.aggregator, ENDS) or play.errors
    assert_nothing_leaked(play)


@given(st.data())
@QUICK
def test_no_state_takes_a_message_twice(data):
    """Whatever a silo has taken, in any state that follows it is refused."""
    play, taken = Play(4), {i: [] for i in range(4)}
    real = play.step

    def step(silo, message):
        before = play.states.get(silo)
        real(silo, message)
        if play.states.get(silo) is not before:
            taken[silo].append(message)

    play.step = step
    play.run(until=data.draw(st.sampled_from(
        [s.Sharing, s.Masking, s.Agreeing, s.Revealing, s.Published, s.Certified]
    )))  # fmt: skip
    for silo, messages in taken.items():
        for message in messages:
            state = play.states[silo]
            if isinstance(message, m.UploadAck) and isinstance(state, s.Masked):
                assert state.acked
            try:
                silo_step(state, message, play.rand)
            except ProtocolError:
                continue
            raise AssertionError(f"{type(state)} took a second {type(message)}")


def mutate(data, message):
    """One field of one message, changed to something of the same type."""
    names = sorted(f.name for f in fields(message))
    field = data.draw(st.sampled_from(names))
    value = getattr(message, field)
    if isinstance(value, bytes | memoryview):
        raw = bytes(value)
        at = data.draw(st.integers(0, max(len(raw) - 1, 0)))
        other = raw[:at] + bytes([(raw[at] ^ 1) if raw else 1]) + raw[at + 1 :]
    elif isinstance(value, int):
        other = value + data.draw(st.sampled_from([1, 2, 5]))
    elif isinstance(value, tuple):
        other = data.draw(
            st.sampled_from([value[:-1], value[::-1], (*value, *value[:1])])
        )
    elif isinstance(value, np.ndarray):
        other = value + np.int32(1)
    elif is_dataclass(value):
        other = mutate(data, value)
    else:
        return message
    return replace(message, **{field: other})


@given(st.data())
@QUICK
def test_a_message_changed_by_its_signer_ends_in_a_release_or_a_named_error(data):
    """A malicious silo or aggregator changes any field, and signs it again."""
    play = Play(4)
    kind = data.draw(st.sampled_from(sorted(
        {what for _, what in SILO} - {m.StateApplied, m.Deadline, m.VoidRequest}
        | set(SPOKEN), key=lambda t: t.__name__,
    )))  # fmt: skip
    silo = data.draw(st.integers(0, 3))
    if kind in SPOKEN:
        play.alter(kind, lambda x: resign(play, silo, mutate(data, x)), sender=silo)
    elif kind is m.AgreementSet:
        play.alter(kind, lambda x: mutate(data, x), to=silo)
    else:
        play.forge(kind, lambda x: mutate(data, x), to=silo)
    play.run()
    for error in (*play.errors.values(), *play.blame):
        assert isinstance(error, FeditError)
    for error in play.blame:  # by an honest aggregator: it has proof, or names nobody
        if kind in SPOKEN:
            assert getattr(error, "suspect", None) in (None, f"silo-{silo}")
    if play.released is not None:
        among = play.released.contributors
        np.testing.assert_array_equal(play.released.total, play.plain_sum(among))
    assert_nothing_leaked(play, corrupt=[silo])


def resign(play: Play, silo: int, message):
    part = getattr(message, "statement", getattr(message, "header", message))
    if part.silo != silo:  # it has no other's key
        return message
    return play.by_silo(silo, message)


@given(st.integers(3, 6), st.integers(0, 10**6))
@QUICK
def test_updates_of_any_value_add_up(silos, seed):
    who = cast(silos, length=7, seed=seed)
    top = who.params.magnitude
    rng = np.random.default_rng(seed)
    for i in range(silos):
        who.updates[i] = rng.choice(np.array([-top, -1, 0, 1, top], np.int32), 7)
    play = Play(who).run()
    assert_released_sum(play, silos)


def assert_released_sum(play: Play, silos: int) -> None:
    assert not play.errors
    np.testing.assert_array_equal(play.released.total, play.plain_sum(range(silos)))
