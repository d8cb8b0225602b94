from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st
from streams import added

from fedit_secure.secagg import keystream as ks
from fedit_secure.secagg import masks
from fedit_secure.secagg.keys import Bad, ExchangeKey, hkdf
from fedit_secure.secagg.transcript import Bound, join, u64

P = 2**61 - 1
SEED, OTHER = bytes(range(32)), bytes(range(32, 64))
BOUND = Bound(b"R", b"ctx", b"K", b"U2")
KEYS = [ExchangeKey.from_bytes(bytes([i + 1]) * 32) for i in range(6)]


def blocks(seed: bytes, tile: int, count: int) -> bytes:
    """A tile of the stream by its definition: the counters encrypted one by one."""
    ecb = Cipher(algorithms.AES256(seed), modes.ECB()).encryptor()
    head = tile.to_bytes(12, "big")
    return b"".join(ecb.update(head + (2 + i).to_bytes(4, "big")) for i in range(count))


def reference(vector, streams, size):
    """add_streams, one coordinate at a time, with tiles of `size` coordinates."""
    total, tag = [int(x) for x in vector], 0
    tiles = -(-len(vector) // size)
    for seed, sign in streams:
        raw = b"".join(blocks(seed, tile, size // 4) for tile in range(tiles))
        for i in range(len(vector)):
            total[i] += sign * int.from_bytes(raw[4 * i : 4 * i + 4], "little")
        tag += sign * int.from_bytes(blocks(seed, tiles, 1), "little")
    return [x % 2**32 for x in total], tag % P


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 100])
@pytest.mark.parametrize("cores", [1, 2, 5])
def test_streams_add_as_defined_whatever_the_tiles_and_cores(
    monkeypatch, length, cores
):
    for name, value in (("TILE", 8), ("PIECE", 4), ("CORES", cores)):
        monkeypatch.setattr(ks, name, value)
    vector = np.arange(length, dtype=np.uint32) * np.uint32(0x9E3779B1)
    before = vector.tolist()
    streams = [(SEED, 1), (OTHER, -1), (bytes(32), 1)]
    total, tag = added(vector, streams)
    assert (total.tolist(), tag) == reference(vector, streams, 8)
    assert vector.tolist() == before


def test_whole_tiles_on_one_core_or_many_give_the_same_bytes(monkeypatch):
    length, found = 2 * ks.TILE + 5, []
    for cores in (1, 3):
        monkeypatch.setattr(ks, "CORES", cores)
        vector = np.zeros(length, np.uint32)
        found.append(added(vector, [(SEED, 1), (OTHER, -1)]))
    assert found[0][1] == found[1][1]
    assert np.array_equal(found[0][0], found[1][0])
    for tile in range(3):
        part = found[0][0][tile * ks.TILE : (tile + 1) * ks.TILE]
        each = (ks.keystream(seed, tile) for seed in (SEED, OTHER))
        raw, less = (np.frombuffer(x.update(bytes(4 * part.size)), "<u4") for x in each)
        assert np.array_equal(part, raw - less)


def test_the_tag_mask_uses_no_byte_of_the_vector_s_mask():
    for length in (1, 8, ks.TILE - 1, ks.TILE, ks.TILE + 1):
        _, tag = added(np.zeros(length, np.uint32), [(SEED, 1)])
        unused = -(-length // ks.TILE)
        assert tag == int.from_bytes(blocks(SEED, unused, 1), "little") % P


@given(st.integers(2, 6), st.integers(1, 40))
def test_pairwise_masks_cancel_in_the_sum(n, length):
    total, tag = np.zeros(length, np.uint32), 0
    for me in range(n):
        vector = np.zeros(length, np.uint32)
        streams = []
        for peer in set(range(n)) - {me}:
            half = (KEYS[me], BOUND, me, peer, KEYS[peer].public)
            streams.append(masks.pair_stream(*half))
        vector, mask = added(vector, streams)
        tag += mask
        assert vector.any() or length < 3
        total += vector
    assert not total.any()
    assert tag % P == 0


def test_adding_then_subtracting_restores_the_vector():
    vector = np.arange(1000, dtype=np.uint32)
    more, one = added(vector, [(SEED, 1)])
    back, other = added(more, [(SEED, -1)])
    assert np.array_equal(vector, back)
    assert (one + other) % P == 0


def test_a_masked_vector_looks_uniform():
    vector = np.zeros(1 << 18, np.uint32)
    vector, _ = added(vector, [(SEED, 1), (OTHER, -1)])
    counts = np.bincount(vector.view(np.uint8), minlength=256)
    expected = 4 * vector.size / 256
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_square - 255) < 5 * np.sqrt(2 * 255)


def test_no_streams_leave_the_vector_alone():
    vector = np.arange(5, dtype=np.uint32)
    assert added(vector, [])[1] == 0
    assert added(vector, [])[0].tolist() == [0, 1, 2, 3, 4]


def test_seeds_are_derived_as_the_protocol_says():
    expected = hkdf(b"b", b"", join(b"fedit/self/v1", b"ctx", b"K", b"U2"))
    assert masks.self_stream(b"b", BOUND, -1) == (expected, -1)
    info = join(b"fedit/mask/v1", b"ctx", b"K", b"U2", u64(3), u64(7))
    expected = hkdf(KEYS[3].exchange(KEYS[5].public), b"R", info)
    assert masks.pair_stream(KEYS[3], BOUND, 3, 7, KEYS[5].public) == (expected, 1)
    assert masks.pair_stream(KEYS[5], BOUND, 7, 3, KEYS[3].public) == (expected, -1)


def test_a_seed_changes_with_whatever_it_is_bound_to():
    bounds = [BOUND, *(BOUND._replace(**{name: b"x"}) for name in BOUND._fields)]
    places = [(bound, 3, 7) for bound in bounds] + [(BOUND, 2, 7), (BOUND, 3, 8)]
    pairs = [masks.pair_stream(KEYS[0], *place, KEYS[1].public)[0] for place in places]
    pairs.append(masks.pair_stream(KEYS[0], BOUND, 3, 7, KEYS[2].public)[0])
    # A silo's own secret needs no salt: it never serves another charter.
    own = [masks.self_stream(b"b", bound, 1)[0] for bound in (BOUND, *bounds[2:])]
    own.append(masks.self_stream(b"x", BOUND, 1)[0])
    assert len(set(pairs + own)) == len(pairs + own) == 13


def test_no_mask_is_shared_with_a_low_order_key():
    with pytest.raises(Bad):
        masks.pair_stream(KEYS[0], BOUND, 0, 1, bytes(32))
