"""Files that were written once: what they say, and their digests, must never change.

A change of the JSON library's output, of a model's fields or of a label would show
here, and would mean a new version of the format.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from fedit_secure.errors import PolicyRefusal
from fedit_secure.federation.approval import Approval, verify_approval
from fedit_secure.federation.card import Card
from fedit_secure.federation.charter import Charter

VECTORS = Path(__file__).parents[1] / "vectors"


@pytest.fixture(scope="module")
def expected():
    return json.loads((VECTORS / "federation.json").read_text())


@pytest.fixture(scope="module")
def golden():
    return Charter.load(VECTORS / "charter.json")


def test_the_charter_and_its_digest(golden, expected):
    data = (VECTORS / "charter.json").read_bytes()
    assert golden.to_bytes() == data
    assert golden.digest().hex() == expected["charter_digest"]
    assert " ".join(golden.words()) == expected["charter_words"]
    # The same digest, spelt out: label and file, each behind its length.
    fields = (b"fedit/charter/v1", data)
    spelt = b"".join(len(f).to_bytes(8, "little") + f for f in fields)
    assert hashlib.sha256(spelt).hexdigest() == expected["charter_digest"]


def test_the_codec_of_the_charter(golden, expected):
    assert golden.secagg_params().codec_digest().hex() == expected["codec_digest"]


def test_the_card_and_the_approval(golden):
    card = Card.load(VECTORS / "clinic-a.card")
    card.check()
    golden.check_card(card)
    approval = Approval.load(VECTORS / "clinic-a.approval")
    verify_approval(golden, approval)
    forged = approval.model_copy(update={"name": "clinic-b"})
    with pytest.raises(PolicyRefusal):
        verify_approval(golden, forged)
