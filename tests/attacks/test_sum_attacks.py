"""Steps 3, 6 and 7: what is uploaded, what is published, and what is signed of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from playbook import (
    Play,
    assert_blamed,
    assert_nothing_leaked,
    assert_refused,
    assert_released,
    cast,
    name,
)
from streams import inner

from fedit_secure.aggregator.skipping import check_word
from fedit_secure.errors import (
    FaultyAggregator,
    FaultySilo,
    FuseBlown,
    ProtocolError,
    QuorumLost,
)
from fedit_secure.errors import FaultySiloOrAggregator as FaultySiloOr
from fedit_secure.secagg import checks, masks, silo_steps
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.keystream import TAG_PRIME as PRIME
from fedit_secure.secagg.tag import TagKey


def nudge(total, by=1, at=0):
    changed = total.copy()
    changed[at] += by
    return changed


def scale(out, k):
    return replace(out, total=out.total * np.int32(k), tag=out.tag * k % PRIME)


ANYONE = (FaultySiloOr, "any contributor")
AGGREGATOR = (FaultyAggregator, "aggregator")
SUMS = {
    "forged_sum": (lambda o: replace(o, total=nudge(o.total)), *ANYONE, "the tag"),
    "forged_sum_far": (
        lambda o: replace(o, total=nudge(o.total, 2**28, 7)),
        *ANYONE,
        "beyond",
    ),
    "scaled_sum": (lambda o: scale(o, -1), *ANYONE, "the tag"),
    "zero_sum": (lambda o: scale(o, 0), *ANYONE, "the tag"),
    "lying_tag": (lambda o: replace(o, tag=(o.tag + 1) % PRIME), *ANYONE, "the tag"),
    "tag_plus_p": (lambda o: replace(o, tag=o.tag + PRIME), *ANYONE, "the tag"),
    "forged_contributors": (
        lambda o: replace(o, contributors=o.contributors[:3]),
        *AGGREGATOR,
        "others than agreed",
    ),
    "more_contributors": (
        lambda o: replace(o, contributors=(*o.contributors, 9)),
        *AGGREGATOR,
        "others than agreed",
    ),
    "other_key_set": (
        lambda o: replace(o, key_set=b"K" * 32),
        *AGGREGATOR,
        "others than agreed",
    ),
    "shorter": (lambda o: replace(o, total=o.total[:-1]), *AGGREGATOR, "another shape"),
    "wider": (
        lambda o: replace(o, total=o.total.astype(np.int64)),
        *AGGREGATOR,
        "another shape",
    ),
}


@pytest.mark.parametrize("attack", SUMS)
def test_published_sum(attack):
    change, error, suspect, what = SUMS[attack]
    play = Play(4, length=300).forge(m.PublishedSum, change)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Play, "aggregate", quorum_lost_is_the_end(Play.aggregate))
        play.run()
    for silo in range(4):
        assert_refused(play, silo, error, suspect, what)
    assert not play.verified
    assert not play.heard(m.Confirmation)


def quorum_lost_is_the_end(aggregate):
    def wrapped(self, message, sender=None):
        aggregate(self, message, sender)
        assert all(isinstance(x, QuorumLost) for x in self.blame)

    return wrapped


def test_sum_signed_by_nobody():
    play = Play(4).alter(
        m.PublishedSum, lambda out: replace(out, signature=bytes(64)), to=0
    )
    play.run()
    assert_refused(play, 0, *AGGREGATOR, "signature on PublishedSum")


def test_sum_of_another_attempt():
    old = Play(4).run()
    play = old.next_round().alter(m.PublishedSum, lambda out: old.released, to=0)
    play.run()
    assert_refused(play, 0, *AGGREGATOR, "another attempt")
    assert_nothing_leaked(play)


def test_forged_sum_with_the_group_key_is_what_a_colluding_silo_could_do_anyway():
    """The documented limit: with one silo of U1 the aggregator has G. It moves the sum
    within the range; it learns nothing by it."""
    play = Play(4)

    def forge(out):
        masked = keys[0]
        total = nudge(out.total)
        pads = sum(masked.pads[u] for u in out.contributors)
        tag = (inner(masked, total) + pads) % PRIME
        return replace(out, total=total, tag=tag)

    keys: list[TagKey] = []
    real = TagKey.derive

    def derive(*what):
        keys.append(real(*what))
        return keys[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(silo_steps.TagKey, "derive", derive)
        play.forge(m.PublishedSum, forge).run()
    assert not play.errors
    assert set(play.verified) == {0, 1, 2, 3}
    assert_nothing_leaked(play, corrupt=[3])


def test_lying_tag_of_a_silo():
    """A contributor masks a wrong tag. It is anonymous: nobody can say who it was."""
    play, real = Play(4), masks.add_streams
    update = play.cast.updates[2]

    def lie(vector, *rest):
        return real(vector, *rest) + (vector is update)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "add_streams", lie)
        play.run()
    for silo in range(4):
        assert_refused(play, silo, *ANYONE, "the tag")
    assert not play.verified
    assert_nothing_leaked(play, corrupt=[2])


def test_update_beyond_the_bound():
    """A silo that submits more than +-M: its own tag is right, and the range is checked
    where the sum shows it."""
    who = cast(4)
    who.updates[2] = np.full(24, 4 * who.params.magnitude + 4, np.int32)
    who.updates |= {i: np.zeros(24, np.int32) for i in (0, 1, 3)}
    play = Play(who)
    play.corrupt.add(2)
    play.run()
    assert_blamed(play, FaultySiloOr, "any contributor", "beyond")
    assert not play.verified
    # As the aggregator would have published it:
    assert play.released is None


@pytest.mark.parametrize("bits", [24, 32])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("silos", [2, 3, 4, 5, 7])
def test_ring_overflow_at_the_bound(silos, bits, sign):
    """Every coordinate of every silo at +-S: the sum of M's can't wrap."""
    who = cast(silos, length=9, ring_bits=bits, allow_pair=silos == 2)
    top = sign * who.params.magnitude
    who.updates = {i: np.full(9, top, np.int32) for i in range(silos)}
    play = Play(who).run()
    assert_released(play, range(silos))
    assert set(play.released.total.tolist()) == {silos * top}


# ------------------------------------------------------- uploads, at the aggregator


def other_bytes(upload):
    return replace(upload, payload=bytes(len(upload.payload)))


def with_header(**changes):
    return lambda upload: replace(upload, header=replace(upload.header, **changes))


def resized(by):
    def change(upload):
        payload = bytes(upload.payload) + b"\0" * by if by > 0 else upload.payload[:by]
        digest = checks.payload_digest(payload)
        header = replace(upload.header, length=len(payload), payload_digest=digest)
        return m.MaskedUpload(header, payload)

    return change


def short_of_its_length(upload):
    """The header signs the charter's length, and the digest of fewer bytes."""
    payload = upload.payload[4:]
    digest = checks.payload_digest(payload)
    return m.MaskedUpload(replace(upload.header, payload_digest=digest), payload)


def no_residue(upload):
    payload = bytes(upload.payload[:-8]) + b"\xff" * 8
    digest = checks.payload_digest(payload)
    return m.MaskedUpload(replace(upload.header, payload_digest=digest), payload)


UPLOADS = {
    "other_bytes": (other_bytes, "isn't what its header says"),
    "cut": (lambda u: replace(u, payload=u.payload[:-1]), "isn't what its header says"),
    "short_of_its_length": (short_of_its_length, "don't take"),
    "short": (resized(-3), "another length"),
    "oversized": (resized(3), "another length"),
    "oversized_length_field": (with_header(length=2**40), "another length"),
    "no_residue": (no_residue, "no residue"),
    "other_dealers": (with_header(dealers_digest=b"2" * 32), "other silos"),
    "other_keys": (with_header(key_set=b"K" * 32), "other silos"),
}


@pytest.mark.parametrize("attack", UPLOADS)
def test_upload(attack):
    """Each is its silo's own fault, and the sum comes out without it, untouched."""
    change, what = UPLOADS[attack]
    play = Play(5).cheat(m.MaskedUpload, 1, change).run()
    assert_blamed(play, FaultySilo, name(1), what)
    assert not play.got(m.UploadAck, 1)
    assert_released(play, [0, 2, 3, 4])


def test_upload_twice_is_added_once():
    play = Play(5).alter(m.MaskedUpload, lambda u: [u, u], sender=1).run()
    assert not play.blame
    assert_released(play, range(5))
    assert len(play.got(m.UploadAck, 1)) == 1


def test_upload_of_a_silo_that_never_dealt():
    """Had it been added, honest silos would find survivors outside U2, and blame the
    aggregator for it."""
    play = Play(5).drop(m.ShareBundle, sender=4)

    def join(upload):
        header = replace(upload.header, silo=4)
        return [play.by_silo(4, replace(upload, header=header)), upload]

    play.alter(m.MaskedUpload, join, sender=0).run()
    assert not play.got(m.UploadAck, 4)
    assert_released(play, range(4))


# ------------------------------------------------------------------- how a round ends


def certificate(play: Play, digests: dict[int, bytes], release=b"r" * 32):
    words = []
    for silo, digest in digests.items():
        word = m.Confirmation(silo, play.cast.charter, 1, digest, release)
        words.append(play.by_silo(silo, word))
    return m.RoundCertificate(1, tuple(words))


def certified(play: Play, proof: m.RoundCertificate, signers: int | None = None):
    needed = play.cast.params.threshold if signers is None else signers
    return checks.certified(play.cast.roster, play.cast.charter, proof, needed)


def test_forged_history():
    """Shown to a silo that was away: only t equal signatures of this round count."""
    play, good = Play(5), b"s" * 32
    assert certified(play, certificate(play, dict.fromkeys(range(4), good))) == (
        good,
        b"r" * 32,
    )
    fewer = certificate(play, dict.fromkeys(range(3), good))
    twin = replace(fewer, confirmations=(*fewer.confirmations, fewer.confirmations[0]))
    mixed = certificate(play, {**dict.fromkeys(range(3), good), 3: b"t" * 32})
    older = replace(certificate(play, dict.fromkeys(range(4), good)), round=2)
    unsigned = certificate(play, dict.fromkeys(range(4), good))
    bad = replace(unsigned.confirmations[0], state_digest=b"t" * 32)
    forged = replace(unsigned, confirmations=(bad, *unsigned.confirmations[1:]))
    sybil = replace(
        unsigned,
        confirmations=(
            replace(unsigned.confirmations[0], silo=9),
            *unsigned.confirmations[1:],
        ),
    )
    empty = m.RoundCertificate(1, ())
    for proof in (fewer, twin, mixed, older, forged, sybil, empty):
        with pytest.raises(FaultyAggregator):
            certified(play, proof)
    other_charter = Play(replace(play.cast, charter=b"Q" * 32))
    with pytest.raises(FaultyAggregator, match="another charter"):
        certified(other_charter, certificate(play, dict.fromkeys(range(4), good)))


def test_following_takes_one_honest_signer():
    """c + 1 statements: a silo that can't verify the sum follows them, and no fewer."""
    play = Play(7)  # c = 2
    three = certificate(play, dict.fromkeys(range(3), b"s" * 32))
    assert certified(play, three, play.cast.params.corrupt + 1)
    two = replace(three, confirmations=three.confirmations[:2])
    with pytest.raises(FaultyAggregator):
        certified(play, two, play.cast.params.corrupt + 1)


def test_following_is_of_applied_alone():
    """Six, c = 1: two say that the round was skipped. Who waits isn't shown their words,
    nor those of fewer than c + 1."""
    play = Play(6, corrupt=1)
    for silo in (0, 1):
        skipped = {"state_digest": b"d" * 32, "release_digest": b""}
        play.cheat(m.Confirmation, silo, lambda w, to=skipped: replace(w, **to))
    play.run()
    certificates = [
        x.message for x in play.shown if hasattr(x.message, "confirmations")
    ]
    assert certificates
    for proof in certificates:
        assert len(proof.confirmations) > play.cast.params.corrupt
        assert all(word.release_digest for word in proof.confirmations)
    assert isinstance(play.aggregator, s.Certified)


def test_two_certificates():
    """*Applied* for some and *skipped* for others: the liars are too few for both."""
    play = Play(10).run()  # c = 3, t = 7
    applied = {w.silo: w for w in play.heard(m.Confirmation)}
    assert len(applied) == 10
    skips = []
    for silo in range(10):
        me = s.Me(silo, play.cast.keys[silo])
        fuse, word = silo_steps.confirmation(me, play.cast.charter, 1, b"d" * 32, b"")
        with pytest.raises(FuseBlown, match="stated the end of round 1 before"):
            play.perform(silo, (fuse,))
        skips.append(word)
    # An honest silo stops at the fuse. Three liars, and t of anything takes four more.
    liars = m.RoundCertificate(1, tuple(skips[7:]))
    with pytest.raises(FaultyAggregator, match="no quorum"):
        certified(play, liars)


def test_skip_by_words_that_are_none():
    """t silos skip a round: an accomplice's words in other names, and true words of
    another charter or round, count for nothing."""
    play = Play(4)
    where, roster = (play.cast.charter, 1), play.cast.roster

    def word(silo, charter, round):
        return play.by_silo(silo, m.Confirmation(silo, charter, round, b"d" * 32, b""))

    check_word(roster, *where, word(0, *where))
    for bad, what in (
        (replace(word(0, *where), silo=1), "a wrong signature on Confirmation"),
        (replace(word(0, *where), silo=9), "no silo has number 9"),
        (word(0, b"Q" * 32, 1), "another charter or round"),
        (word(0, play.cast.charter, 2), "another charter or round"),
    ):
        with pytest.raises(ProtocolError, match=what) as caught:
            check_word(roster, *where, bad)
        assert not hasattr(caught.value, "suspect")  # it needn't be whom it names


def test_confirmations_of_other_states_lose_the_quorum():
    play = Play(4)
    for silo in (1, 2):
        play.cheat(m.Confirmation, silo, lambda w: replace(w, state_digest=b"x" * 32))
    play.run()
    assert_blamed(play, QuorumLost, None, "no 3 of 4 words are equal")


@pytest.mark.parametrize("elsewhere", [{"charter": b"Q" * 32}, {"round": 2}])
def test_confirmations_of_another_charter_or_round_certify_nothing(elsewhere):
    """Of the same state, so that they would fill the quorum; no silo would believe it."""
    play = Play(4)
    for silo in (1, 2):
        play.cheat(m.Confirmation, silo, lambda word: replace(word, **elsewhere))
    play.run()
    assert_blamed(play, QuorumLost, None, "no 3 of 2 words are equal")


def test_confirmation_with_somebody_else_s_name():
    play = Play(4)
    play.alter(m.Confirmation, lambda w: [replace(w, silo=1), w], sender=0).run()
    assert [str(e) for e in play.blame] == ["a wrong signature on Confirmation"]
    assert isinstance(play.aggregator, s.Certified)
    assert certified(play, play.aggregator.certificate)


def test_a_silo_that_restarted_follows_and_counts():
    """Five, t = 4: one is dead, one lost G in a restart; its word is still needed."""
    play = Play(5).drop(m.MaskedUpload, sender=4)
    play.run(until=s.Published)
    play.restart(3)
    play.aggregate(play.by_silo(3, m.VoidStatement(3, b"other" * 8)), sender=3)
    play.run(deadlines=False)
    shown = [x.message for x in play.shown if x.to == 3][-1]
    assert isinstance(shown, m.RoundCertificate)
    digest, release = certified(play, shown, play.cast.params.corrupt + 1)
    where = (play.cast.charter, 1, digest, release)
    fuse, word = silo_steps.confirmation(s.Me(3, play.cast.keys[3]), *where)
    play.perform(3, (fuse, m.Send(None, word)))
    play.run(deadlines=False)
    assert isinstance(play.aggregator, s.Certified)
    assert not play.blame
