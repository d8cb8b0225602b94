"""The base model's text: reproducible, and not the silos' data."""

from __future__ import annotations

import pytest

from fedit_secure.demo import hospital
from fedit_secure.demo.hospital import SPECIALITIES, held_out_records, silo_records
from fedit_secure.demo.public_text import public_texts
from fedit_secure.demo.train_base import BaseModelSizes


@pytest.fixture(scope="module")
def texts():
    sizes = BaseModelSizes()
    return public_texts(sizes.seed, sizes.texts)


@pytest.fixture(scope="module")
def records():
    silos = [r for name in SPECIALITIES for r in silo_records(name, 0)]
    return silos + held_out_records(0)


def test_the_seed_decides_every_text():
    once = public_texts(1, 300)
    assert public_texts(1, 300) == once
    assert public_texts(2, 300) != once


def test_no_instruction_input_or_response_of_the_silos_is_public(texts, records):
    for part in ("instruction", "response"):
        public = {getattr(t, part) for t in texts}
        assert not public & {getattr(r, part) for r in records}
    asked = {(t.instruction, t.input) for t in texts}
    assert not asked & {(r.instruction, r.input) for r in records}


def test_no_rule_of_the_hospitals_is_public(texts):
    public = "\n".join(t.response for t in texts)
    rules = [
        *hospital._DOSES.values(),
        *(f"Code {code}" for code in hospital._CODES.values()),
        *(f"Forward to {desk}" for desk in hospital._DUE),
        "seat near the desk, see",
        "shock room",
        "leaves our care after",
        "phone the ward, repeat",
        "note it, repeat",
        "sign the sheet.",
    ]
    assert [rule for rule in rules if rule in public] == []
