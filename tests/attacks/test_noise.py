"""Attacks that want two sums where one is due: what the aggregator holds is noise.

In each, everything that the attacker knows is taken off what it was sent, and of what is
left every vector and every sum of some of them is held against uniform noise. The sum that
is due comes out exactly by the same calculation, and with the masks off the same statistic
sees the difference: so a failure would show.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from attacks.holdings import held, stripped
from attacks.noise import ALARM, is_noise
from playbook import Play, assert_one_sum, assert_refused, cast, learned, opened
from scipy.stats import binomtest
from streams import forget_masks, ring_of

from fedit_secure.errors import FaultyAggregator, FuseBlown
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.storage.life import Life

LENGTH, BITS = 4096, 24


def visible(silos: int):
    """A cast whose updates any eye would see: bell curves, and one is a constant."""
    who = cast(silos, length=LENGTH)
    top, rng = who.params.magnitude, np.random.default_rng(silos)
    for i in range(silos):
        bell = np.clip(rng.normal(0, 0.1 * top, LENGTH), -top, top)
        who.updates[i] = bell.astype(np.int32)
    who.updates[silos - 1] = np.full(LENGTH, top // 2, np.int32)
    return who


def residues(play: Play, corrupt: Iterable[int] = ()) -> dict[int, np.ndarray]:
    """Every honest upload less all that the attacker can take off it."""
    return {x.silo: x.residue for x in stripped(held(play, corrupt))}


def sums(parts: dict[int, np.ndarray], but: Iterable[int] = ()) -> Iterator[np.ndarray]:
    """The sum of every set of them, but of the whole of `but` alone."""
    for size in range(1, len(parts) + 1):
        for among in combinations(sorted(parts), size):
            if among != tuple(sorted(but)):
                yield sum((parts[i] for i in among), np.zeros(LENGTH, np.uint32))


# ------------------------------------------------------------------------- the statistic


def test_the_statistic_has_the_false_alarm_rate_that_it_says() -> None:
    """At a rate at which alarms can be counted, of two thousand vectors of true noise."""
    rng = np.random.default_rng(7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attacks.noise.ALARM", 0.05)
        alarms = sum(
            not is_noise([rng.integers(0, 1 << BITS, 2048, np.uint32)], BITS)
            for _ in range(2000)
        )
    assert ALARM <= 1e-6
    # No more than it says; and not never, or it couldn't tell anything.
    assert binomtest(alarms, 2000, 0.05, "greater").pvalue > 1e-4
    assert alarms > 20


def bell(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0, 1e5, LENGTH).astype(np.int32).astype(np.uint32)


NOT_NOISE = {
    "zeros": lambda rng: np.zeros(LENGTH, np.uint32),
    "constant": lambda rng: np.full(LENGTH, 0x123456, np.uint32),
    "bell": bell,
    "counter": lambda rng: np.arange(LENGTH, dtype=np.uint32) * np.uint32(4099),
    "low_byte_only": lambda rng: (
        rng.integers(0, 1 << BITS, LENGTH, np.uint32) & np.uint32(0xFFFF0F)
    ),
    "pairs": lambda rng: np.repeat(rng.integers(0, 1 << BITS, LENGTH, np.uint32), 2),
}


@pytest.mark.parametrize("kind", NOT_NOISE)
def test_the_statistic_sees_what_is_no_noise(kind):
    rng = np.random.default_rng(3)
    noise = [rng.integers(0, 1 << BITS, LENGTH, np.uint32) for _ in range(99)]
    assert is_noise(noise, BITS)
    assert not is_noise([*noise, NOT_NOISE[kind](rng)], BITS)


# ------------------------------------------------------------------------ different_model


@pytest.mark.parametrize("masked", [True, False])
def test_different_model(monkeypatch, masked):
    """Silo 0 is on a crafted state and uploads from there. Say that all its checks failed,
    and that the aggregator has every self-mask seed: the sum is noise even then."""
    who = visible(4)
    if not masked:
        forget_masks(monkeypatch)
    plays = {state: Play(who, state_digest=state) for state in (b"d" * 32, b"x" * 32)}
    for play in plays.values():
        who.lives = {i: Life() for i in range(4)}
        play.run(until=s.Agreeing)
    honest, crafted = plays[b"d" * 32], plays[b"x" * 32]
    # The same randomness, so the same keys: the states alone part the masks.
    assert (
        crafted.heard(m.Advert, 0)[0].mask_key == honest.heard(m.Advert, 0)[0].mask_key
    )
    total = {i: residue(honest, i) for i in range(4)}
    if masked:
        clear = sum(total.values()) & np.uint32((1 << BITS) - 1)
        assert np.array_equal(
            clear, honest.plain_sum(range(4)).astype(np.uint32) & 0xFFFFFF
        )
    total[0] = residue(crafted, 0)
    assert is_noise(sums(total), BITS) is masked


def residue(play: Play, silo: int) -> np.ndarray:
    """The upload of a silo less its self mask, which the aggregator is given here."""
    all_of = held(play)
    all_of.seeds |= {i: own.self_seed for i, own in play.secrets.items()}
    return {x.silo: x.residue for x in stripped(all_of)}[silo]


# ------------------------------------------------------------------------ split_survivors


def split(play: Play, corrupt: set[int]) -> list[m.Agreement]:
    """Silos 0 to 2 are shown that silo 6 dropped out, and the accomplices sign both views.
    Returns what was signed of the smaller view, as it comes in."""
    fewer: list[m.SurvivorSet] = []
    signed: list[m.Agreement] = []

    def without(u3):
        headers = tuple(h for h in u3.headers if h.silo != 6)
        fewer.append(play.by_aggregator(replace(u3, headers=headers)))
        return fewer[-1]

    def note(agreement):
        signed.append(agreement)
        return agreement

    def sign_both(agreement):
        fields = ("survivors_digest", "headers_digest")
        smaller = dict(zip(fields, fewer[0].digests(), strict=True))
        signed.append(play.by_silo(agreement.silo, replace(agreement, **smaller)))
        return agreement

    for silo in (0, 1, 2):
        play.alter(m.SurvivorSet, without, to=silo)
        play.alter(m.Agreement, note, sender=silo)
    for silo in corrupt:
        play.alter(m.Agreement, sign_both, sender=silo)
    return signed


def test_split_survivors():
    """Ten silos, three of them accomplices (t = 7). One view reaches its quorum and gives
    its sum; the other is one signature short, and with it silo 6 stays hidden."""
    corrupt, honest = {7, 8, 9}, tuple(range(7))
    play = Play(visible(10))
    signed = split(play, corrupt)
    play.run(until=s.Published)
    # All that the aggregator has for the smaller view: three silos and the accomplices.
    assert {a.silo for a in signed} == {0, 1, 2} | corrupt
    quorum = m.AgreementSet(play.session.ctx, tuple(signed))
    for silo in (0, 1, 2):
        play.step(silo, quorum)
        what = "its quorum has 6 of 7 signatures"
        assert_refused(play, silo, FaultyAggregator, "aggregator", what)
        assert not play.heard(m.Reveal, silo)
    assert (6, "key") not in opened(play, corrupt)
    assert_one_sum([play], corrupt)
    assert learned(play, corrupt) == [honest]
    left = residues(play, corrupt)
    assert set(left) == set(honest)
    assert is_noise(sums(left, but=honest), BITS)


# --------------------------------------------------------------------- exclude_then_retry


def mixed(one: Play, other: Play, corrupt: Iterable[int] = ()) -> Iterator[np.ndarray]:
    """What comes of two attempts with the same updates: every sum of the one less every
    sum of the other over all silos, or over all but one."""
    ones, others = residues(one, corrupt), residues(other, corrupt)
    every = sorted(ones.keys() & others.keys())
    sets = [every, *([i for i in every if i != out] for out in every)]
    zero = np.zeros(LENGTH, np.uint32)
    for left in sets:
        for right in sets:
            yield sum((ones[i] for i in left), zero) - sum(
                (others[i] for i in right), zero
            )


def test_exclude_then_retry():
    """The aggregator publishes nothing, says that the release failed, and wants the others'
    sum: it gets no second upload, and of the first attempt one sum, which has silo 4 in
    it."""
    first = Play(visible(5)).drop(m.PublishedSum).run(until=s.Published)
    second = first.again(invited=range(4)).run()
    for silo in range(4):
        what = "this round's update is revealed, so it enters no attempt"
        assert_refused(second, silo, FuseBlown, None, what)
    assert not second.heard(m.Advert)
    assert_one_sum([first, second], corrupt=[0])
    assert learned(first, [0]) == [(1, 2, 3, 4)]
    left = residues(first, [0])
    assert is_noise(sums(left, but=(1, 2, 3, 4)), BITS)


def test_exclude_then_retry_after_a_void():
    """Without silo 4 first, as far as the accomplice gets with it; then voided, certified
    and all over again with it. The two attempts have one sum in common, the last."""
    corrupt, honest = [0], (1, 2, 3, 4)
    first = Play(visible(5)).drop(m.MaskedUpload, sender=4)
    # Nobody hears of the quorum but the accomplice, which reveals.
    for silo in honest:
        first.drop(m.AgreementSet, to=silo)
    first.run()
    assert isinstance(first.aggregator, s.Ended)
    retry = first.again().run()
    assert_refused(retry, 0, FuseBlown, None, "revealed")
    assert retry.released.contributors == honest
    assert_one_sum([first, retry], corrupt)
    assert learned(first, corrupt) == []
    assert learned(retry, corrupt) == [honest]
    # The first attempt's uploads were sent all the same, silo 4's too.
    assert set(residues(first, corrupt)) == set(honest)
    assert is_noise(sums(residues(first, corrupt)), BITS)
    assert is_noise(sums(residues(retry, corrupt), but=honest), BITS)
    assert is_noise(mixed(first, retry, corrupt), BITS)


def test_what_the_attacks_would_see_without_masks(monkeypatch):
    """The control: the same plays, the same statistic, and silos that forget to mask."""
    forget_masks(monkeypatch)
    ten = Play(visible(10))
    split(ten, {7, 8, 9})
    five = Play(visible(5)).drop(m.PublishedSum)
    for play in (ten, five):
        play.run(until=s.Agreeing)
        for silo, left in clear_uploads(play).items():
            assert not is_noise([left], BITS), silo
        assert not is_noise(sums(clear_uploads(play)), BITS)


def clear_uploads(play: Play) -> dict[int, np.ndarray]:
    return {
        upload.header.silo: ring_of(upload.payload, LENGTH, BITS)
        for upload in play.heard(m.MaskedUpload)
    }
