from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from fedit_secure.secagg import masks
from fedit_secure.secagg.keys import Bad, ExchangeKey, hkdf
from fedit_secure.secagg.transcript import Bound, join, u64

P = 2**61 - 1
SEED, OTHER = bytes(range(32)), bytes(range(32, 64))
BOUND = Bound(b"R", b"ctx", b"K", b"U2")
KEYS = [ExchangeKey.from_bytes(bytes([i + 1]) * 32) for i in range(6)]


def blocks(seed: bytes, first: int, count: int) -> bytes:
    """The stream by its definition: the counters encrypted one by one."""
    ecb = Cipher(algorithms.AES256(seed), modes.ECB()).encryptor()
    counters = (i.to_bytes(16, "big") for i in range(first, first + count))
    return b"".join(ecb.update(counter) for counter in counters)


def reference(vector, streams):
    """add_streams, one coordinate at a time."""
    length = len(vector)
    total, tag = [int(x) for x in vector], 0
    for seed, sign in streams:
        raw = blocks(seed, 0, -(-length // 4))
        for i in range(length):
            total[i] += sign * int.from_bytes(raw[4 * i : 4 * i + 4], "little")
        after = blocks(seed, -(-length // 4), 1)
        tag += sign * int.from_bytes(after, "little")
    return [x % 2**32 for x in total], tag % P


def test_aes_256_ctr_known_answer():
    # NIST SP 800-38A, F.5.5; its counter starts where our stream has block 0xf0f1...ff.
    key = bytes.fromhex(
        "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"
    )
    plaintext = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    stream = masks.keystream(key, 0xF0F1F2F3F4F5F6F7F8F9FAFBFCFDFEFF)
    assert stream.update(plaintext).hex() == (
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )


@given(st.integers(0, 300), st.integers(1, 8))
def test_a_stream_can_be_entered_at_any_block(block, count):
    found = masks.keystream(SEED, block).update(bytes(16 * count))
    assert (
        found == masks.keystream(SEED).update(bytes(16 * (block + count)))[16 * block :]
    )
    assert found == blocks(SEED, block, count)


@given(st.integers(0, 50), st.integers(0, 9))
def test_elements_are_blocks_mod_p(first, count):
    raw = blocks(SEED, first, count)
    expected = [
        int.from_bytes(raw[i : i + 16], "little") % P for i in range(0, len(raw), 16)
    ]
    assert masks.elements(SEED, first, count).tolist() == expected


def test_elements_reduce_the_largest_halves(monkeypatch):
    class Ones:
        def update(self, data):
            return b"\xff" * len(data)

    monkeypatch.setattr(masks, "keystream", lambda seed, block: Ones())
    assert masks.elements(SEED, 0, 1).tolist() == [(2**128 - 1) % P]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 100])
@pytest.mark.parametrize("threads", [1, 2, 5, 0])
def test_streams_add_as_defined_whatever_the_tiles_and_threads(
    monkeypatch, length, threads
):
    monkeypatch.setattr(masks, "TILE", 8)
    vector = np.arange(length, dtype=np.uint32) * np.uint32(0x9E3779B1)
    streams = [(SEED, 1), (OTHER, -1), (bytes(32), 1)]
    expected, tag = reference(vector, streams)
    assert masks.add_streams(vector, streams, threads) == tag
    assert vector.tolist() == expected


def test_whole_tiles_on_one_thread_or_many_give_the_same_bytes():
    length = 3 * masks.TILE + 5
    first, second = (np.zeros(length, np.uint32) for _ in range(2))
    tags = {
        masks.add_streams(first, [(SEED, 1), (OTHER, -1)], threads=1),
        masks.add_streams(second, [(SEED, 1), (OTHER, -1)], threads=3),
    }
    assert len(tags) == 1
    assert first.tobytes() == second.tobytes()
    raw = np.frombuffer(masks.keystream(SEED).update(bytes(4 * length)), "<u4")
    less = np.frombuffer(masks.keystream(OTHER).update(bytes(4 * length)), "<u4")
    assert np.array_equal(first, raw - less)


def test_the_tag_mask_uses_no_byte_of_the_vector_s_mask():
    for length in range(1, 9):
        vector = np.zeros(length, np.uint32)
        tag = masks.add_streams(vector, [(SEED, 1)])
        whole = blocks(SEED, 0, 4)
        start = 16 * -(-length // 4)
        assert vector.tobytes() == whole[: 4 * length]
        assert tag == int.from_bytes(whole[start : start + 16], "little") % P


@given(st.integers(2, 6), st.integers(1, 40))
def test_pairwise_masks_cancel_in_the_sum(n, length):
    total, tag = np.zeros(length, np.uint32), 0
    for me in range(n):
        vector = np.zeros(length, np.uint32)
        streams = []
        for peer in set(range(n)) - {me}:
            half = (KEYS[me], BOUND, me, peer, KEYS[peer].public)
            streams.append(masks.pair_stream(*half))
        tag += masks.add_streams(vector, streams, 1)
        assert vector.any() or length < 3
        total += vector
    assert not total.any()
    assert tag % P == 0


def test_adding_then_subtracting_restores_the_vector():
    vector = np.arange(1000, dtype=np.uint32)
    added = masks.add_streams(vector, [(SEED, 1)])
    removed = masks.add_streams(vector, [(SEED, -1)])
    assert np.array_equal(vector, np.arange(1000, dtype=np.uint32))
    assert (added + removed) % P == 0


def test_a_masked_vector_looks_uniform():
    vector = np.zeros(1 << 18, np.uint32)
    masks.add_streams(vector, [(SEED, 1), (OTHER, -1)])
    counts = np.bincount(vector.view(np.uint8), minlength=256)
    expected = 4 * vector.size / 256
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_square - 255) < 5 * np.sqrt(2 * 255)


def test_no_streams_leave_the_vector_alone():
    vector = np.arange(5, dtype=np.uint32)
    assert masks.add_streams(vector, []) == 0
    assert vector.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "vector",
    [np.zeros(8, np.int32), np.zeros((2, 4), np.uint32), np.zeros(16, np.uint32)[::2]],
)
def test_only_contiguous_uint32_vectors_are_masked(vector):
    with pytest.raises(ValueError, match="contiguous uint32"):
        masks.add_streams(vector, [(SEED, 1)])


@pytest.mark.parametrize("sign", [0, 2, -2])
def test_only_signs_are_signs(sign):
    with pytest.raises(ValueError, match="\\+1 or -1"):
        masks.add_streams(np.zeros(1, np.uint32), [(SEED, sign)])


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
