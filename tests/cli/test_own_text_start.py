"""`lora: {init: own-text}`: a charter pins that start as any other, and says no more."""

from __future__ import annotations

import numpy as np
import pytest

from fedit_secure.federation.charter import Charter
from fedit_secure.federation.update import GridState

SILOS = ("clinic-a", "clinic-b", "clinic-c", "clinic-d")


def draft(fedit, root, name, init):
    """Drafts it with `init` in the plan's lora section, and gives what came of it."""
    plan = root / f"{name}.yaml"
    text = (root / "plan.yaml").read_text().replace("initial_state: given.bin\n", "")
    plan.write_text(text.replace("lora: {rank: 2,", f"lora: {{rank: 2, init: {init},"))
    assert f"init: {init}" in plan.read_text()
    cards = [root / party / "identity" for party in (*SILOS, "hub")]
    folder = root / name
    folder.mkdir()
    return fedit("charter", "draft", plan, *cards, "-o", folder / "charter.json")


def test_a_charter_pins_the_start_by_its_digest_alone(fedit, federation):
    states = {}
    for name, init in [("one", "own-text"), ("two", "own-text"), ("three", "random")]:
        result = draft(fedit, federation, name, init)
        assert result.status == 0, result.err
        charter = Charter.load(federation / name / "charter.json")
        data = (federation / name / "initial-state.bin").read_bytes()
        states[name] = GridState.from_bytes(data)
        assert charter.adapter.initial_digest == states[name].digest().hex()
        assert "own-text" not in charter.to_bytes().decode()
    one, random = states["one"], states["three"]
    assert one.digest() == states["two"].digest()
    a, b = one.adapter_layout
    cut = int(np.prod(a[1]))
    assert not np.array_equal(one.values[:cut], random.values[:cut])
    assert not one.values[cut : cut + int(np.prod(b[1]))].any()


@pytest.mark.parametrize("init", ["eva", "kaiming", "true"])
def test_another_start_is_refused_in_a_sentence(fedit, federation, init):
    result = draft(fedit, federation, "wrong", init)
    assert result.status == 4
    assert "wrong.yaml line " in result.err
    assert "'lora.init'" in result.err
    assert "'random' or 'own-text'" in result.err
    assert not list((federation / "wrong").iterdir())
