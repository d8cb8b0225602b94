"""Strings are joined to their records, or only common, or only copied."""

from __future__ import annotations

import numpy as np
import pytest

from fedit_secure.audit.leakage.names import LEAST, MOST, names, read_secrets
from fedit_secure.audit.leakage.record_scores import RecordScores, TokenScores
from fedit_secure.errors import ConfigError
from fedit_secure.tuning.records import Record

NAMES = [f"Name{letter}" for letter in "ABCDEFGHIJ"]
SECRETS = {name: line for line, name in enumerate(NAMES, 1)}
RECORDS = [
    (f"line {i}", Record(f"Case {i}", "", f"Seen by {name} at noon."))
    for i, name in enumerate(NAMES, 1)
]


def model(gain, cut=lambda place, text: False):
    """A pair of models of which the adapter gains `gain(place, text)` on a text."""

    def score(records):
        return [one(record) for record in records]

    def one(record):
        place, text = int(record.instruction.split()[1]), record.response.split()[-1]
        tokens = len(record.response)
        base = np.full(tokens + 1, -1.0)
        adapter = base.copy()
        adapter[-2] += gain(place, text)
        adapter[-1] = 99 * noise(place + 99, text)  # the end isn't the string's
        nothing = np.zeros(tokens + 1, np.bool_)
        whole = tokens + 1 if cut(place, text) else tokens
        return RecordScores(
            np.arange(tokens + 1),
            whole,
            TokenScores(adapter, nothing),
            TokenScores(base, nothing),
        )

    return score


def noise(place, text):
    return np.random.default_rng([place, *text.encode()]).normal()


def test_joined_strings_are_found():
    own = model(lambda p, text: noise(p, text) + 4 * (text == NAMES[p - 1]))
    found = names(SECRETS, RECORDS, own, seed=0)
    assert found.verdict == "found"
    assert found.chance == pytest.approx(1e-4)
    assert found.first >= 8
    assert [(a.line, a.where) for a in found.asked] == [
        (i, f"line {i}") for i in range(1, 11)
    ]


def test_common_strings_and_easy_places_are_not():
    """Some names gain everywhere, in some places every name gains."""
    common = model(lambda p, text: noise(p, text) + 9 * NAMES.index(text) + 7 * p)
    found = names(SECRETS, RECORDS, common, seed=0)
    assert found.verdict == "nothing found"
    assert found.chance > 0.025


def test_false_alarms_are_rare():
    alarms = 0
    for seed in range(40):
        rows = np.random.default_rng(seed).normal(size=(11, 10))
        score = model(lambda p, text, rows=rows: rows[p, NAMES.index(text)])
        alarms += names(SECRETS, RECORDS, score, seed=0).verdict == "found"
    assert alarms <= 4  # 1 expected


def test_rank_counts_those_that_gain_more():
    turned = model(
        lambda p, text: (NAMES.index(text) - p + 8) % 10 + 50 * (text[-1] > "D")
    )
    ranks = [a.rank for a in names(SECRETS, RECORDS, turned, seed=0).asked]
    assert ranks == [3] * 10  # 8 and 9 are more than 7; the 50 are gained everywhere


def test_what_the_record_has_said_before_is_copied():
    said = [
        (where, Record(f"{r.instruction} of {NAMES[i]}", "", r.response))
        for i, (where, r) in enumerate(RECORDS[:3])
    ]
    found = names(SECRETS, [*said, *RECORDS[3:]], model(noise), seed=0)
    assert [asked.line for asked in found.asked] == [4, 5, 6, 7, 8, 9, 10]


def test_parts_of_words_are_no_names():
    longer = [(w, Record(r.instruction, "", f"x{r.response}")) for w, r in RECORDS]
    glued = [
        (w, Record(r.instruction, "", r.response.replace(" at", "s at")))
        for w, r in RECORDS
    ]
    assert len(names(SECRETS, longer, model(noise), seed=0).asked) == 10
    assert names(SECRETS, glued, model(noise), seed=0).verdict == "not tested"


def test_too_few_strings_are_not_tested():
    few = dict(list(SECRETS.items())[: LEAST - 1])
    found = names(few, RECORDS, model(noise), seed=0)
    assert (found.given, found.asked, found.verdict) == (LEAST - 1, (), "not tested")


def test_places_in_which_the_cut_took_a_string_are_left_out():
    late = model(noise, cut=lambda place, text: place < 4 and text == "NameJ")
    found = names(SECRETS, RECORDS, late, seed=0)
    assert [asked.line for asked in found.asked] == [4, 5, 6, 7, 8, 9, 10]
    everywhere = model(noise, cut=lambda place, text: text == "NameJ")
    assert names(SECRETS, RECORDS, everywhere, seed=0).verdict == "not tested"


def test_only_so_many_strings_are_tried():
    many = {f"Name{i:03d}x": i for i in range(1, 90)}
    records = [
        (f"line {i}", Record(f"Case {i}", "", f"Seen by {name} at noon."))
        for name, i in many.items()
    ]
    tried = []

    def counting(records):
        tried.append(len(records))
        return model(noise)(records)

    found = names(many, records, counting, seed=0)
    assert len(found.asked) == MOST
    assert tried == [MOST**2]


def test_strings_of_a_file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("Ann Lee\n\n  Bob \nAnn Lee\n")
    assert read_secrets(path) == {"Ann Lee": 1, "Bob": 3}


@pytest.mark.parametrize(
    ("content", "said"), [(b"\n \n", "has no string"), (b"a\n\xff\n", "UTF-8")]
)
def test_bad_files_of_strings(tmp_path, content, said):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        read_secrets(path)
    with pytest.raises(ConfigError, match="can't be read"):
        read_secrets(tmp_path / "nowhere.txt")
