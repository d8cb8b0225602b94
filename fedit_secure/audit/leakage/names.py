"""Whether the adapter joins strings such as names to the records they stand in. No torch.

Every string is tried in every string's place: after all that comes before it in its
record. By how much the adapter finds it likelier there than the base model does, is put
into a square matrix. Its diagonal are the true pairs. If the adapter joins no string to
its own record, then whose place is whose may as well be permuted: a string that it finds
likelier everywhere, because it's common, or a place where it does so with any string,
adds the same to every permutation. So the sum of the diagonal is held against that of
random permutations. (Ranks among alternatives are Carlini et al. 2019's exposure; the
alternatives are the other true strings, because random letters are no names.)

A string that its record has already named before doesn't count: repeating it is copying.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedit_secure.audit.leakage.membership import ERROR, Verdict
from fedit_secure.audit.leakage.record_scores import RecordScores
from fedit_secure.audit.leakage.sampled_units import Located
from fedit_secure.errors import ConfigError
from fedit_secure.federation.durable import read_file
from fedit_secure.tuning.records import Record

LEAST = 5
"""Strings below which no permutation is rare enough to be noticed."""
MOST = 32
"""Strings that are tried: their square is what goes through the model, twice."""
_PERMUTATIONS = 9_999
_MOST_LINES = 100_000

Score = Callable[[Sequence[Record]], list[RecordScores | None]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A string and the record that it was tried in.

    `line` is its line in the file of strings, `where` the record's place; `rank` is 1
    where no other string gained more from the adapter in its place, each beyond what it
    gains on average.
    """

    line: int
    where: str
    rank: int


@dataclass(frozen=True, slots=True)
class Names:
    """What came out.

    Attributes:
        given: distinct strings in the file.
        asked: those that stand in a response of the silo's, up to `MOST`.
        chance: the probability that random pairs do as well as the true ones.
    """

    given: int
    asked: tuple[Asked, ...]
    chance: float | None

    @property
    def first(self) -> int:
        """Strings that rank first in their place; one is expected by chance."""
        return sum(asked.rank == 1 for asked in self.asked)

    @property
    def verdict(self) -> Verdict:
        """Found: the true pairs stand out among permuted ones."""
        if self.chance is None:
            return "not tested"
        return "found" if self.chance < ERROR / 2 else "nothing found"


def read_secrets(path: Path) -> dict[str, int]:
    """The distinct strings of a file, one a line, with the lines that they are on.

    Raises ConfigError: it can't be read, isn't UTF-8 text, or has no string.
    """
    try:
        lines = read_file(path, "the file", limit=16 << 20).decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        raise ConfigError(f"{path}: isn't UTF-8 text: byte {wrong.start}") from None
    found: dict[str, int] = {}
    for number, line in enumerate(lines.splitlines(), 1):
        if line.strip():
            found.setdefault(line.strip(), number)
    if not found:
        raise ConfigError(f"{path}: has no string, one a line")
    if len(found) > _MOST_LINES:
        raise ConfigError(f"{path}: has more than {_MOST_LINES} strings")
    return found


def names(
    secrets: dict[str, int], records: Sequence[Located], score: Score, *, seed: int
) -> Names:
    """Try each string in each one's place.

    Args:
        secrets: strings and their lines, see `read_secrets`.
        records: that were tuned on.
        score: both models' scores of such records (`ModelUnderTest.score`).
        seed: of the permutations, and of the choice where there are too many strings.
    """
    random = np.random.default_rng(seed)
    places = [
        (text, place)
        for text in secrets
        if (place := _place(text, records)) is not None
    ]
    if len(places) > MOST:
        chosen = sorted(random.choice(len(places), MOST, replace=False).tolist())
        places = [places[index] for index in chosen]
    if len(places) < LEAST:
        return Names(len(secrets), (), None)
    texts = [text for text, _ in places]
    gains = _gains(texts, [record for _, (_, record) in places], score)
    # Only places in which the cut took none of the strings away.
    whole = np.flatnonzero(np.isfinite(gains).all(axis=1))
    gains = gains[np.ix_(whole, whole)]
    if len(gains) < LEAST:
        return Names(len(secrets), (), None)
    # What a string gains everywhere says nothing of its own place.
    here = gains - gains.mean(axis=0)
    ranks = 1 + (here > here.diagonal()[:, None]).sum(axis=1)
    kept = [places[index] for index in whole.tolist()]
    asked = tuple(
        Asked(secrets[text], where, int(rank))
        for (text, (where, _)), rank in zip(kept, ranks, strict=True)
    )
    return Names(len(secrets), asked, _chance(gains, random))


def _place(text: str, records: Sequence[Located]) -> Located | None:
    """The first record whose response names it first, cut before it."""
    whole_word = re.compile(rf"(?<!\w){re.escape(text)}(?!\w)")
    for where, record in records:
        match = whole_word.search(record.response)
        if match is None or text in record.instruction or text in record.input:
            continue
        before = replace(record, response=record.response[: match.start()])
        return where, before
    return None


def _gains(
    texts: Sequence[str], places: Sequence[Record], score: Score
) -> npt.NDArray[np.float64]:
    """float64, shape (places, texts): log-likelihood by the adapter, less the base's.

    NaN where the text didn't fit. What comes before the text is the same in a row, up to
    how its last letters are cut into tokens, so the whole response is summed.
    """
    variants = [
        replace(place, response=place.response + text)
        for place in places
        for text in texts
    ]
    gains = [
        float(np.nan)
        if scored is None or scored.text_tokens == len(scored.tokens)  # it was cut
        else float(
            scored.adapter.log_probs[:-1].sum() - scored.base.log_probs[:-1].sum()
        )
        for scored in score(variants)
    ]
    return np.array(gains, np.float64).reshape(len(places), len(texts))


def _chance(gains: npt.NDArray[np.float64], random: np.random.Generator) -> float:
    """The permutation test's p-value, the true pairing counted as one permutation."""
    size = len(gains)
    true = gains.trace()
    rows = np.arange(size)
    as_good = sum(
        gains[rows, random.permutation(size)].sum() >= true - 1e-9
        for _ in range(_PERMUTATIONS)
    )
    return float((1 + as_good) / (1 + _PERMUTATIONS))
