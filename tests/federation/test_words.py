from __future__ import annotations

import hashlib

import pytest

from fedit_secure.federation.words import word, words

ALL = [word(value) for value in range(2048)]


def test_the_list_has_2048_distinct_words_of_five_letters():
    assert len(set(ALL)) == 2048
    assert {len(w) for w in ALL} == {5}


def test_four_letters_name_a_word():
    assert len({w[:4] for w in ALL}) == 2048


def test_one_misheard_letter_is_never_another_word():
    for position in range(5):
        rest = [w[:position] + w[position + 1 :] for w in ALL]
        assert len(set(rest)) == 2048, f"two words differ only in letter {position}"


def test_words_are_the_first_165_bits():
    digest = hashlib.sha256(b"charter").digest()
    value = int.from_bytes(digest, "big") >> 91
    found = 0
    for w in words(digest):
        found = found << 11 | ALL.index(w)
    assert found == value
    assert len(words(digest)) == 15


@pytest.mark.parametrize("bit", [0, 1, 80, 163, 164])
def test_every_covered_bit_changes_the_words(bit):
    digest = bytearray(hashlib.sha256(b"charter").digest())
    before = words(bytes(digest))
    digest[bit // 8] ^= 0x80 >> bit % 8
    assert words(bytes(digest)) != before


def test_the_words_of_a_known_digest():
    assert words(bytes(32)) == ("babab",) * 15
    assert " ".join(words(bytes(range(32)))) == (
        "babab bibaf magar bibaf jadup bavav fabuk fajal bisav kadur havaf domub "
        "bahah mihav hodam"
    )


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="32 bytes"):
        words(b"short")
    with pytest.raises(ValueError, match="11-bit"):
        word(2048)
