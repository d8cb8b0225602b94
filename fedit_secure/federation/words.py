"""A digest as fifteen words that two people can compare over the telephone.

A word is five letters, consonant-vowel-consonant-vowel-consonant, and carries 11 bits;
its last consonant is a check on the other four, so that any two words differ in at
least two letters and one misheard letter is never another word. Fifteen words are the
digest's first 165 bits: a coordinator who searches for two charters with equal words
needs about 2^82 attempts, and for a charter that fits given words 2^165.
"""

from __future__ import annotations

WORDS = 15
_BITS = 11
_CONSONANTS = "bdfghjklmnprstvz"
_FIRST_VOWELS = "aeio"
_SECOND_VOWELS = "au"


def word(value: int) -> str:
    """The word of an 11-bit value. Raises ValueError outside the range."""
    if not 0 <= value < 1 << _BITS:
        raise ValueError(f"{value} is not an {_BITS}-bit value")
    first, vowel = value >> 7, value >> 5 & 3
    second, last_vowel = value >> 1 & 15, value & 1
    # A change of one field alone changes the sum, so no two words are one letter apart.
    check = (first + 4 * last_vowel + vowel + second) % 16
    return (
        _CONSONANTS[first]
        + _FIRST_VOWELS[vowel]
        + _CONSONANTS[second]
        + _SECOND_VOWELS[last_vowel]
        + _CONSONANTS[check]
    )


def words(digest: bytes) -> tuple[str, ...]:
    """The fifteen words of a 32-byte digest, most significant bits first."""
    if len(digest) != 32:
        raise ValueError(f"a digest is 32 bytes, not {len(digest)}")
    value = int.from_bytes(digest, "big") >> (256 - WORDS * _BITS)
    shifts = range((WORDS - 1) * _BITS, -1, -_BITS)
    return tuple(word(value >> shift & (1 << _BITS) - 1) for shift in shifts)
