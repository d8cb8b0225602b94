"""What `make mutants` deletes; the pass itself takes too long for the suite."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

SOURCE = """\
def step(state, message):
    if isinstance(state, Ended):
        return state, ()
    expect(message.silo in state.asked and message, "nobody asked")
    with blame(FaultySilo, name):
        checks.share(state, message)
        key.verify(message)
        found.append(message)
    if 0 <= message.silo < 4 and (a, b) == (c, d):
        note(same(state, message, "round", "ctx"))
    try:
        probe.exchange(key)
    except ValueError:
        raise Bad("low order") from None
    yield "rule", a
    raise Refused
"""

GONE = {
    "if isinstance(state, Ended): ...",
    "expect(message.silo in state.asked and message, 'nobody asked')",
    "message.silo in state.asked of message.silo in state.asked and message",
    "message of message.silo in state.asked and message",
    "with blame(FaultySilo, name): ...",
    "checks.share(state, message)",
    "key.verify(message)",
    "0 <= message.silo < 4 of 0 <= message.silo < 4 and (a, b) == (c, d)",
    "(a, b) == (c, d) of 0 <= message.silo < 4 and (a, b) == (c, d)",
    "0 <= message.silo of 0 <= message.silo < 4",
    "message.silo < 4 of 0 <= message.silo < 4",
    "a == c of (a, b) == (c, d)",
    "b == d of (a, b) == (c, d)",
    "note(same(state, message, 'round', 'ctx'))",
    "'round' of same(state, message, 'round', 'ctx')",
    "'ctx' of same(state, message, 'round', 'ctx')",
    "except ValueError: of probe.exchange(key)",
    "probe.exchange(key)",
    "yield ('rule', a)",
    "raise Refused",
}


@pytest.fixture
def mutants(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / ".ci")
    return importlib.import_module("mutants")


def test_every_form_of_a_check_is_deleted_once(mutants: Any) -> None:
    made = list(mutants.mutants_of(Path("core.py"), SOURCE))
    assert sorted(x.gone for x in made) == sorted(GONE)
    assert len({x.source for x in made} | {SOURCE}) == len(GONE) + 1
    assert {x.function for x in made} == {"step"}
    alone = next(x for x in made if x.gone == "a == c of (a, b) == (c, d)")
    changed = alone.source.splitlines()[alone.first - 1]
    assert changed == "    if 0 <= message.silo < 4 and ((b,) == (d,)):"


def test_every_mutant_of_the_core_has_a_name_and_every_justification_a_mutant(
    mutants: Any,
) -> None:
    names = [
        mutant.name
        for path in (ROOT / mutants.CORE).glob("*.py")
        for mutant in mutants.mutants_of(path, path.read_text(encoding="utf-8"))
    ]
    assert len(names) > 200
    assert len(set(names)) == len(names)
    assert mutants.EQUIVALENT.keys() | mutants.UNATTACKED.keys() <= set(names)
