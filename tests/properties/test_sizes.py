"""Properties over sizes from 1 to 10^5, both rings, and weights, through whole releases."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playbook import SPOKEN, Play, cast
from streams import mean_of, ring_of, step_of

from fedit_secure.federation.release_sizes import release_sizes
from fedit_secure.federation.update import GridState, apply_update
from fedit_secure.secagg import fixed_point
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.params import SecAggParams
from fedit_secure.wire import bulk
from fedit_secure.wire.codec import PublishedNotice, decode, encode
from fedit_secure.wire.limits import Limits

EARLY = (m.Advert, m.ShareBundle, m.MaskedUpload)
RINGS = st.sampled_from([24, 32])
# One row of the verifiable sum has 256 coordinates, one keystream block 4, one tile 2^18
# bytes; around each of these something starts anew.
LENGTHS = st.one_of(
    st.integers(1, 40),
    st.sampled_from([255, 256, 257, 511, 512, 513, 1023, 1024, 1025]),
    st.sampled_from([32_768, 65_535, 65_536, 65_537, 99_999, 100_000]),
    st.integers(1, 100_000),
)
WEIGHTS = st.one_of(
    st.integers(1, 9), st.integers(1, 2**32 - 1), st.sampled_from([1, 2**32 - 1])
)


def quick(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )


def sizes(data: st.DataObject, least: int = 3, most: int = 7) -> SecAggParams:
    silos = data.draw(st.integers(least, most), "silos")
    return release_sizes(
        silos,
        length=data.draw(LENGTHS, "length"),
        ring_bits=data.draw(RINGS, "ring"),
        weights=data.draw(st.lists(WEIGHTS, min_size=silos, max_size=silos), "weights"),
        bound=data.draw(st.sampled_from([1e-4, 0.012, 1.0, 333.3]), "bound"),
    )


def drops(data: st.DataObject, play: Play) -> tuple[int, ...]:
    """Lose as many silos as is tolerated, each at some stage; who is in the sum."""
    params = play.cast.params
    most = params.silos - params.minimum
    everyone = st.integers(0, params.silos - 1)
    among = set(range(params.silos))
    for silo in data.draw(st.sets(everyone, max_size=most), "lost"):
        stage = data.draw(st.sampled_from(SPOKEN))
        play.drop(stage, sender=silo)
        if stage in EARLY:
            among -= {silo}
    return tuple(sorted(among))


def floats(params: SecAggParams, seed: int, beyond: float) -> dict[int, np.ndarray]:
    """Updates of every magnitude up to `beyond` bounds, some at the bound exactly."""
    rng = np.random.default_rng(seed)
    drawn = {}
    for silo in range(params.silos):
        update = rng.uniform(-1, 1, params.length) ** 3 * params.bound * beyond
        at = rng.integers(0, params.length, max(1, params.length // 100))
        update[at] = rng.choice([-params.bound, 0.0, params.bound])
        drawn[silo] = update.astype(np.float32 if silo % 2 else np.float64)
    return drawn


def assert_exact(play: Play, among: tuple[int, ...]) -> None:
    """The sum of the integers, at everybody; and the uploads look like noise.

    Of a hundred thousand masked coordinates some equal the plain ones by chance, so
    they are counted.
    """
    assert not play.errors
    assert not play.blame
    assert isinstance(play.aggregator, s.Certified)
    assert play.released is not None
    assert play.released.contributors == among
    np.testing.assert_array_equal(play.released.total, play.plain_sum(among))
    for seen in play.verified.values():
        np.testing.assert_array_equal(seen.total, play.released.total)
    params = play.cast.params
    for upload in play.heard(m.MaskedUpload):
        assert len(upload.payload) == params.payload_bytes
        ring = ring_of(upload.payload, params.length, params.ring_bits)
        plain = play.cast.updates[upload.header.silo].view(np.uint32)
        same = ((ring ^ plain) << (32 - params.ring_bits) == 0).sum()
        assert same <= 3  # expected: at most 1e5 / 2^24


@given(st.data())
@quick(25)
def test_a_weighted_release_of_any_size_is_the_mean(data: st.DataObject) -> None:
    """Floats in, floats out: encoded by weight, summed under masks, applied alike."""
    params = sizes(data)
    beyond = data.draw(st.sampled_from([0.5, 1.0, 40.0]), "beyond")
    seed = data.draw(st.integers(0, 99), "seed")
    updates = floats(params, seed, beyond)
    encoded = {
        u: fixed_point.encode(update, params, u, bytes([u, seed]) * 16)
        for u, update in updates.items()
    }
    who = cast(params.silos, length=params.length)
    who.params = params
    who.updates = {u: e.values for u, e in encoded.items()}
    play = Play(who, seed=seed)
    among = drops(data, play)
    play.run()
    assert_exact(play, among)

    # In float64, as in the documents: (w_u / w_max) * x_u, over the sum of w_u / w_max.
    share = {u: params.weights[u] / max(params.weights) for u in among}
    true = sum(share[u] * encoded[u].scale * updates[u].astype(float) for u in among)
    total = sum(share.values())
    mean = mean_of(play.released.total, params, among)
    reach = len(among) * step_of(params) * (1 + 2**-20)
    error = np.abs(mean * total - true)
    assert np.all(error <= reach + np.abs(true) * 1e-6)

    state = GridState(("a",), ((params.length,),), np.zeros(params.length, np.int64))
    after = [
        apply_update(state, seen.total, params, seen.contributors)
        for seen in (play.released, *play.verified.values())
    ]
    assert len({applied.digest() for applied in after}) == 1
    moved = after[0].values / 2.0**24
    assert np.all(np.abs(moved - mean) <= 2.0**-25 + np.abs(mean) * 1e-12)


@given(st.data())
@quick(15)
def test_extreme_integers_of_any_size_add_up(data: st.DataObject) -> None:
    """Every silo at +-M in every coordinate: the ring is full, and doesn't wrap."""
    params = sizes(data)
    who = cast(params.silos, length=params.length)
    who.params = params
    top = params.magnitude
    same = data.draw(st.booleans(), "all of one sign")
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    for u in range(params.silos):
        sign = 1 if same else rng.choice([-1, 1], params.length)
        who.updates[u] = np.full(params.length, top, np.int32) * np.int32(sign)
    play = Play(who)
    among = drops(data, play)
    play.run()
    assert_exact(play, among)
    if same:
        assert play.released.total.min() == len(among) * top


def test_every_length_around_a_row_and_a_block_sums_exactly() -> None:
    for bits in (24, 32):
        for length in (*range(1, 18), *range(254, 259), 511, 512, 513):
            play = Play(3, length=length, ring_bits=bits, seed=length).run()
            assert_exact(play, (0, 1, 2))


def test_the_largest_size_in_both_rings() -> None:
    for bits in (24, 32):
        play = Play(5, length=100_000, ring_bits=bits, weights=(1, 2, 3, 4, 2**32 - 1))
        play.drop(m.Reveal, sender=4)
        assert_exact(play.run(), (0, 1, 2, 3, 4))


# ------------------------------------------------------------------- over the wire codec


def over_the_wire(message: Any, limits: Limits) -> Any:
    """What arrives after encoding, decoding, and the calls for what is large."""
    if isinstance(message, m.MaskedUpload):
        header = bulk.upload_header(bulk.upload_start(message.header), limits)
        held = b""
        for chunk in bulk.upload_chunks(message.payload, 0):
            held += bulk.upload_data(chunk, len(held), header.length)[0]
        return m.MaskedUpload(header, held)
    if isinstance(message, m.PublishedSum):
        notice = decode(encode(PublishedNotice.of(message, b"a" * 32)), limits)
        assert isinstance(notice, PublishedNotice)
        reader = bulk.BlobReader(4 * limits.length)
        for chunk in bulk.blob_chunks(message.total.astype("<i4").tobytes()):
            reader.add(chunk)
        return notice.whole(np.frombuffer(reader.whole(), "<i4"))
    if isinstance(message, m.StateApplied):  # local
        return message
    arrived = decode(encode(message), limits)
    assert arrived == message
    return arrived


@given(st.data())
@quick(15)
def test_a_release_over_the_codec_is_the_same_release(data: st.DataObject) -> None:
    params = sizes(data, most=6)
    who = cast(params.silos, length=params.length)
    who.params = params
    top = params.magnitude
    rng = np.random.default_rng(7)
    for u in range(params.silos):
        who.updates[u] = rng.integers(-top, top, params.length, np.int32, True)
    limits = Limits.of(params)
    play = Play(who).alter(object, lambda message: over_the_wire(message, limits))
    among = drops(data, play)
    play.run()
    assert_exact(play, among)
