from __future__ import annotations

import dataclasses
import itertools
import pickle
import random

import numpy as np
import pytest
from playbook import (
    SPOKEN,
    Play,
    assert_nothing_leaked,
    assert_released,
    cast,
    opened,
    secrets_of,
)
from streams import mean_of, step_of

from fedit_secure.errors import FeditError, ProtocolError
from fedit_secure.secagg import fixed_point, keystream
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.protocol import (
    AGGREGATOR,
    SILO,
    aggregator_step,
    run_release,
    silo_step,
)
from fedit_secure.secagg.transcript import digest, u64


def tolerated(silos: int) -> list[tuple[int, ...]]:
    """Every set of silos that may be missing."""
    params = cast(silos).params
    most = silos - params.minimum
    return [
        drop for size in range(1, most + 1)
        for drop in itertools.combinations(range(silos), size)
    ]  # fmt: skip


def exact(silos: int, bits: int, dies: dict[int, type]) -> None:
    """The sum over whoever uploaded is that of the integers, bit for bit."""
    play = Play(silos, length=13, ring_bits=bits, seed=silos)
    for silo, kind in dies.items():
        play.drop(kind, sender=silo)
    early = (m.Advert, m.ShareBundle, m.MaskedUpload)
    assert_released(play.run(), [i for i in range(silos) if dies.get(i) not in early])


def test_the_oracle():
    """The whole protocol as one loop gives what the sums of the tests are."""
    play = Play(4, length=13)
    end, states = run_release(
        play.session, play.cast.aggregator_key, play.states, play.rand
    )
    assert isinstance(end, s.Certified)
    assert {type(state) for state in states.values()} == {s.Confirmed}
    other = Play(4, length=13).run()
    assert_released(other, range(4))
    assert {w.release_digest for w in end.certificate.confirmations} == {
        other.released.release_digest  # the same seed, so the same K
    }


@pytest.mark.parametrize("bits", [24, 32])
@pytest.mark.parametrize("silos", [2, 3, 4, 5, 10])
def test_the_sum_is_exact_without_drops(silos, bits):
    who = cast(silos, length=13, ring_bits=bits, allow_pair=silos == 2)
    assert_released(Play(who).run(), range(silos))


@pytest.mark.parametrize("bits", [24, 32])
@pytest.mark.parametrize("stage", SPOKEN)
@pytest.mark.parametrize("silos", [4, 5])
def test_the_sum_is_exact_with_every_tolerated_set_of_drops(silos, stage, bits):
    assert tolerated(3) == []
    for drop in tolerated(silos):
        exact(silos, bits, dict.fromkeys(drop, stage))


@pytest.mark.parametrize("stage", SPOKEN)
def test_the_sum_is_exact_with_drops_among_ten(stage):
    """Four of 175 sets a stage, drawn with seed 1 plus the place of the stage; the slow
    test takes all of them."""
    sets = random.Random(1 + SPOKEN.index(stage)).sample(tolerated(10), 4)
    for drop, bits in zip(sets, (24, 32, 24, 32), strict=True):
        exact(10, bits, dict.fromkeys(drop, stage))


@pytest.mark.slow
@pytest.mark.parametrize("bits", [24, 32])
@pytest.mark.parametrize("stage", SPOKEN)
def test_the_sum_is_exact_with_every_tolerated_set_of_drops_among_ten(stage, bits):
    assert len(tolerated(10)) == 10 + 45 + 120
    for drop in tolerated(10):
        exact(10, bits, dict.fromkeys(drop, stage))


@pytest.mark.parametrize("silos", [4, 5, 7])
def test_drops_at_different_stages(silos):
    most = silos - cast(silos).params.minimum
    for stages in itertools.product(SPOKEN, repeat=most):
        exact(silos, 24, dict(enumerate(stages)))


@pytest.mark.parametrize("stage", SPOKEN)
@pytest.mark.parametrize("silos", [3, 5])
def test_one_drop_too_many_gives_no_sum(silos, stage):
    one_more = silos - cast(silos).params.minimum + 1
    play = Play(silos)
    for silo in range(one_more):
        play.drop(stage, sender=silo).drop(m.VoidRequest, to=silo)
    play.run()
    assert isinstance(play.aggregator, s.Ended)
    # The dead don't sign; t of the living do only where there are t, and hadn't revealed.
    living = silos - one_more
    early = stage in (m.Advert, m.ShareBundle)
    assert play.aggregator.free == (early or living >= play.cast.params.threshold)


@pytest.mark.parametrize("bits", [24, 32])
@pytest.mark.parametrize("weights", [None, (1, 5, 2, 3)])
def test_the_decoded_sum_is_within_the_documented_bound(weights, bits):
    who = cast(4, length=200, ring_bits=bits, weights=weights, bound=0.25)
    rng = np.random.default_rng(7)
    floats = {i: rng.uniform(-0.25, 0.25, 200) for i in range(4)}
    for i, update in floats.items():
        encoded = fixed_point.encode(update, who.params, i, bytes([i]) * 32)
        assert encoded.scale == 1.0
        who.updates[i] = encoded.values
    play = Play(who).drop(m.MaskedUpload, sender=1).run()
    assert_released(play, [0, 2, 3])
    w = who.params.weights
    share = sum(w[i] for i in (0, 2, 3)) / max(w)
    mean = mean_of(play.released.total, who.params, (0, 2, 3))
    true = sum(w[i] / max(w) * floats[i] for i in (0, 2, 3))
    off = np.abs(mean * share - true).max()
    assert 0 < off <= 3 * step_of(who.params) * (1 + 2**-20)


def test_the_sum_of_a_vector_over_many_tiles(monkeypatch):
    monkeypatch.setattr(keystream, "TILE", 1024)
    monkeypatch.setattr(keystream, "PIECE", 256)
    assert_released(Play(4, length=5000).run(), range(4))


def test_silos_whose_uploads_were_cut_off_help_the_others():
    """Ten, t = 7: three uploads are late, and one of the seven silos that are in the sum
    dies before it agrees. Six are too few; the late ones make up for it."""
    play = Play(10).drop(m.Agreement, sender=0)
    for silo in (7, 8, 9):
        play.drop(m.MaskedUpload, sender=silo)
    assert_released(play.run(), range(7))
    assert {7, 8, 9} <= {a.silo for a in play.released.agreements}
    for silo in (7, 8, 9):
        assert {(silo, "key")} == {x for x in opened(play) if x[0] == silo}


def test_published_sums_carry_their_quorum():
    play = Play(5).run()
    signers = {a.silo for a in play.released.agreements}
    assert len(signers) >= play.cast.params.threshold
    assert (
        len({(a.survivors_digest, a.headers_digest) for a in play.released.agreements})
        == 1
    )


def test_context_changes_with_everything_that_it_covers():
    one = Play(4).session
    assert one.ctx == digest(
        "fedit/ctx/v1", one.charter, u64(1), u64(1), one.state_digest,
        one.params.codec_digest(),
    )  # fmt: skip
    others = {
        "charter": b"r" * 32, "round": 2, "attempt": 2, "state_digest": b"S" * 32,
        "params": cast(4, length=25).params,
    }  # fmt: skip
    made = {dataclasses.replace(one, **{k: v}).ctx for k, v in others.items()}
    assert len(made | {one.ctx}) == 6


# ------------------------------------------------------------------------- the tables


def visited() -> tuple[dict[type, object], dict[type, object], dict[type, object]]:
    """One state of each kind, of silo 0 and of the aggregator, and one of each message."""
    silo_states: dict[type, object] = {}
    aggregator_states: dict[type, object] = {}
    messages: dict[type, object] = {}
    for play in (Play(4), Play(4).drop(m.Agreement)):
        real = play.step

        def step(silo, message, play=play, real=real):
            messages.setdefault(type(message), message)
            if silo == 0:
                silo_states.setdefault(type(play.states[0]), play.states[0])
            real(silo, message)
            silo_states.setdefault(type(play.states[0]), play.states[0])

        play.step = step
        aggregate = play.aggregate

        def note(message, sender=None, play=play, aggregate=aggregate):
            aggregator_states.setdefault(type(play.aggregator), play.aggregator)
            messages.setdefault(type(message), message)
            aggregate(message, sender)
            aggregator_states.setdefault(type(play.aggregator), play.aggregator)

        play.aggregate = note
        play.run()
    messages[m.Lost] = m.Lost(0)
    return silo_states, aggregator_states, messages


def test_pairs_that_no_table_holds_are_refused():
    silo_states, aggregator_states, messages = visited()
    assert len(silo_states) == 9
    assert len(aggregator_states) == 9
    refused = 0
    for (kind, state), (what, message) in itertools.product(
        silo_states.items(), messages.items()
    ):
        if (kind, what) not in SILO:
            with pytest.raises(ProtocolError, match="takes no"):
                silo_step(state, message, bytes)
            refused += 1
    for (kind, state), (what, message) in itertools.product(
        aggregator_states.items(), messages.items()
    ):
        over = kind in (s.Certified, s.Ended)
        if over:
            assert aggregator_step(state, message) == (state, ())
        elif (kind, what) not in AGGREGATOR:
            with pytest.raises(ProtocolError, match="takes no"):
                aggregator_step(state, message)
            refused += 1
    assert refused > 150


def test_no_state_accepts_a_message_twice():
    """Whatever was just taken is refused, or ignored, by the state that came of it."""
    play = Play(4)
    real = play.step

    def step(silo, message):
        before = play.states[silo]
        real(silo, message)
        if play.states[silo] is not before:
            with pytest.raises(ProtocolError):
                silo_step(play.states[silo], message, play.rand)

    play.step = step
    aggregate = play.aggregate

    def twice(message, sender=None):
        aggregate(message, sender)
        if not isinstance(message, m.Deadline) and sender is not None:
            before = play.aggregator
            assert aggregator_step(before, message) == (before, ())

    play.aggregate = twice
    play.run()
    assert_released(play, range(4))


def test_a_message_too_early_is_refused():
    play = Play(4)
    early = Play(play.cast, seed=2)
    early.cast.lives = {i: type(x)() for i, x in play.cast.lives.items()}
    early.run()
    for kind in (m.ShareBundle, m.MaskedUpload, m.Agreement, m.Reveal, m.Confirmation):
        with pytest.raises(ProtocolError, match="Gathering takes no"):
            aggregator_step(play.aggregator, early.heard(kind)[0])


# ------------------------------------------------------------------- what states hold


def test_states_print_and_store_no_secret():
    """Every state that a silo goes through, and every error, with all of its secrets."""
    play, states, secrets = Play(4), [], set()
    real = play.step

    def step(silo, message):
        if silo == 0 and 0 in play.states:
            states.append(play.states[0])
            secrets.update(secrets_of(play.states[0]))
        real(silo, message)
        states.append(play.states[0])
        secrets.update(secrets_of(play.states[0]))

    play.step = step
    play.run()
    assert len(secrets) > 12
    mine = play.states[0]
    assert isinstance(mine, s.Confirmed)
    assert {type(x) for x in states} == {
        s.Invited, s.Advertised, s.Shared, s.Masked, s.Agreed, s.Revealed, s.Verified,
        s.Confirmed,
    }  # fmt: skip
    for state in states:
        text = f"{state!r} {state}"
        for secret in secrets:
            assert repr(secret)[2:-1] not in text
            assert secret.hex() not in text


def test_states_with_secrets_are_not_serialised():
    play = Play(4).run(until=s.Masking)
    for _ in range(2):
        with pytest.raises(TypeError, match="isn't serialised"):
            pickle.dumps(play.states[0])
        play.run(until=s.Agreeing)
    fields = {f.name for f in dataclasses.fields(s.Masked)}
    assert not {"secrets", "mask_key", "self_seed"} & fields


def test_secrets_go_when_they_are_done_with():
    """After Mask: no own seed or key, and no update; after Reveal: G alone."""
    play = Play(4).run(until=s.Sharing)
    play.mail.append(play.mail.popleft())
    play.run(until=s.Masking)
    before = {i: play.states[i].secrets for i in range(4)}
    play.run(until=s.Revealing)
    for silo in range(4):
        held = secrets_of(play.states[silo])
        gone = before[silo]
        for secret in (gone.self_seed, gone.mask_key.private_bytes()):
            assert secret not in held
        assert play.states[silo].start.update.size == 0
    play.run(until=s.Published)
    for silo in range(4):
        state = play.states[silo]
        assert {f.name for f in dataclasses.fields(state)} == {
            "start", "key_set", "survivors", "tag_key"
        }  # fmt: skip


def test_errors_tell_no_secret():
    """Of every attack that a silo notices, the text."""
    play = Play(4)
    secrets: set[bytes] = set()
    texts: list[str] = []
    real = play.step

    def step(silo, message):
        secrets.update(secrets_of(play.states[silo]))
        real(silo, message)
        secrets.update(secrets_of(play.states[silo]))

    play.step = step  # of every silo

    def bad_reveal(r):
        return dataclasses.replace(r, self_shares=((0, bytes(33)), *r.self_shares[1:]))

    play.cheat(m.Reveal, 0, bad_reveal)
    play.alter(m.PublishedSum, lambda out: dataclasses.replace(out, tag=1), to=1)
    play.run()
    texts += [str(e) for e in (*play.blame, *play.errors.values())]
    assert len(texts) >= 2
    assert len(secrets) > 40
    for text, secret in itertools.product(texts, secrets):
        assert secret.hex() not in text
        assert repr(secret) not in text
    assert all(isinstance(e, FeditError) for e in play.blame)


def test_aggregator_memory_is_one_vector():
    """Uploads are added and forgotten: what stays of them are headers."""
    play = Play(5, length=64).run(until=s.Agreeing)
    masking = play.aggregator.masking
    assert all(isinstance(x, m.UploadHeader) for x in masking.got.values())
    assert masking.total.shape == (64,)
    assert_nothing_leaked(play)
