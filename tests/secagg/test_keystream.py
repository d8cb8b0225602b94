from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from fedit_secure.secagg import keystream as ks

P = 2**61 - 1
SEED = bytes(range(32))


@pytest.fixture(params=[True, False], ids=["gcm", "ctr"])
def either_mode(request, monkeypatch):
    monkeypatch.setattr(ks, "WIDE_AES", request.param)


def blocks(seed: bytes, tile: int, count: int) -> bytes:
    """The stream by its definition: the counters encrypted one by one."""
    ecb = Cipher(algorithms.AES256(seed), modes.ECB()).encryptor()
    head = tile.to_bytes(12, "big")
    return b"".join(ecb.update(head + (2 + i).to_bytes(4, "big")) for i in range(count))


@pytest.mark.parametrize("tile", [0, 1, 255, 256, 2**64 + 7, 2**96 - 1])
def test_a_tile_is_its_counters_encrypted_in_both_modes(either_mode, tile):
    assert ks.keystream(SEED, tile).update(bytes(16 * 9)) == blocks(SEED, tile, 9)


def test_a_whole_tile_is_the_same_in_both_modes(monkeypatch):
    streams = []
    for wide in (True, False):
        monkeypatch.setattr(ks, "WIDE_AES", wide)
        streams.append(ks.keystream(SEED, 3).update(bytes(4 * ks.TILE)))
    assert streams[0] == streams[1]
    assert streams[0][-16:] == blocks(SEED, 3, ks.TILE // 4)[-16:]


def test_a_tile_number_beyond_the_nonce_is_refused():
    with pytest.raises(OverflowError):
        ks.keystream(SEED, 2**96)


def test_no_two_places_of_a_stream_share_a_counter():
    """2^36 coordinates have 2^17 tiles; a tile's counters stay below 2^32."""
    assert 2 + ks.TILE // 4 <= 2**32
    assert 2**36 // ks.TILE < 2**96
    assert ks.TILE % ks.PIECE == 0
    assert ks.PIECE % 256 == 0


@given(st.integers(0, 50), st.integers(0, 9))
def test_elements_are_blocks_mod_p(tile, count):
    raw = blocks(SEED, tile, count)
    expected = [
        int.from_bytes(raw[i : i + 16], "little") % P for i in range(0, len(raw), 16)
    ]
    assert ks.elements(SEED, count, tile).tolist() == expected


def test_elements_run_over_tiles(monkeypatch):
    monkeypatch.setattr(ks, "TILE", 8)  # two blocks
    expected = b"".join(blocks(SEED, tile, 2) for tile in (5, 6, 7))[: 16 * 5]
    found = ks.elements(SEED, 5, 5).tolist()
    assert found == [
        int.from_bytes(expected[i : i + 16], "little") % P for i in range(0, 80, 16)
    ]


def test_elements_reduce_the_largest_halves(monkeypatch):
    class Ones:
        def update(self, data):
            return b"\xff" * len(data)

    monkeypatch.setattr(ks, "keystream", lambda seed, tile: Ones())
    assert ks.elements(SEED, 1).tolist() == [(2**128 - 1) % P]


def test_an_array_is_filled_with_the_next_bytes():
    stream = ks.keystream(SEED, 0)
    first, second = np.empty(5, "<u4"), np.empty(6, "<i2")
    assert ks.fill(first, stream) is first
    ks.fill(second, stream)
    assert first.tobytes() + second.tobytes() == blocks(SEED, 0, 2)


@pytest.mark.parametrize("cores", [1, 2, 3, 8])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 63, 64, 65, 200])
def test_every_piece_is_worked_on_once_with_its_own_streams(monkeypatch, cores, length):
    monkeypatch.setattr(ks, "TILE", 64)
    monkeypatch.setattr(ks, "PIECE", 16)
    monkeypatch.setattr(ks, "CORES", cores)
    found, seen, rooms = np.zeros(length, "<u4"), [], []

    def work(here, streams, scratch):
        (stream,) = streams
        seen.append(here)
        ks.fill(found[here], stream)
        assert all(room.size == 16 for room in scratch)
        rooms.append((here.start, *scratch))  # kept, so that no room is given out again

    ks.in_pieces(length, work, [SEED])
    covered = sorted(i for here in seen for i in range(here.start, here.stop))
    assert covered == list(range(length))
    whole = b"".join(blocks(SEED, tile, 16) for tile in range(4))
    assert found.tobytes() == whole[: 4 * length]
    # Both rooms of a run of tiles are its own, from its start to its end.
    users: dict[int, list[int]] = {}
    for start, *both in rooms:
        for room in both:
            users.setdefault(id(room), []).append(start)
    assert len(users) <= 2 * cores
    for starts in users.values():
        assert starts == list(range(starts[0], starts[-1] + 16, 16))


def test_what_a_piece_raises_comes_out(monkeypatch):
    monkeypatch.setattr(ks, "TILE", 4)
    monkeypatch.setattr(ks, "PIECE", 4)

    def work(here, streams, scratch):
        if here.start == 8:
            raise ValueError("no")

    for cores in (1, 3):
        monkeypatch.setattr(ks, "CORES", cores)
        with pytest.raises(ValueError, match="no"):
            ks.in_pieces(30, work)
