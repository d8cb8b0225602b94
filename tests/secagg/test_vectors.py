"""The vectors of the secure aggregation: current, run case by case, and bad in one way.

`make vectors` writes them again; tests/vectors/README.md says what they hold.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from vectors import functions, generate, good_cases, replay, values
from vectors.notation import WIDTH, difference, dump, full, patched, read, write
from vectors.world import AGGREGATOR, World

from fedit_secure import errors
from fedit_secure.secagg import (
    aggregator_steps,
    checks,
    fixed_point,
    keys,
    silo_steps,
    tag,
)
from fedit_secure.secagg.protocol import SILO
from fedit_secure.secagg.transcript import Signed

HELD = {
    path.stem: json.loads(path.read_text("utf-8"))
    for path in sorted(generate.FOLDER.glob("*.json"))
}
WORLD = World(HELD["setting"])
MESSAGES = {
    name: message
    for file in HELD.values()
    for name, message in full(file.get("messages", {})).items()
}
CASES = [case for file in HELD.values() for case in file.get("cases", [])]
STEPS = [case for case in CASES if "party" in case]
CALLS = [case for case in CASES if "function" in case]


def good(cases: list[Any]) -> list[Any]:
    return [pytest.param(x, id=x["name"]) for x in cases if "error" not in x]


def bad(cases: list[Any]) -> list[Any]:
    return [pytest.param(x, id=x["name"]) for x in cases if "error" in x]


def assert_refuses(
    case: dict[str, Any], raised: pytest.ExceptionInfo[Exception]
) -> None:
    """Exactly this error, about exactly this suspect, for exactly this reason."""
    assert type(raised.value).__name__ == case["error"], raised.value
    assert getattr(raised.value, "suspect", None) == case["suspect"], raised.value
    assert case["because"] in str(raised.value), raised.value


def error_of(case: dict[str, Any]) -> type[Exception]:
    return getattr(errors, case["error"], None) or getattr(
        keys, case["error"], ValueError
    )


def test_the_files_are_what_the_code_writes_byte_for_byte():
    there = {path.name: path.read_bytes() for path in generate.FOLDER.iterdir()}
    made = generate.files()
    assert there.keys() == made.keys()
    for name, data in made.items():
        assert there[name] == data, f"{name} isn't current: run `make vectors`"


@pytest.mark.parametrize("case", good(STEPS))
def test_a_good_step(case):
    step = replay.run(WORLD, MESSAGES, case)
    expected = [MESSAGES.get(name, name) for name in case["gives"]]
    assert replay.outcome(step) == expected
    who = replay.party_of(case)
    found = values.of(WORLD, who, case["takes"][-1], step)
    if "values" in case:  # beside the story they are left out
        assert found == case["values"]


@pytest.mark.parametrize("case", bad(STEPS))
def test_a_bad_step(case):
    with pytest.raises(errors.FeditError) as raised:
        replay.run(WORLD, MESSAGES, case)
    assert_refuses(case, raised)


@pytest.mark.parametrize("case", good(CALLS))
def test_a_good_value(case):
    assert functions.call(case) == case["expected"]


@pytest.mark.parametrize("case", bad(CALLS))
def test_a_bad_value(case):
    with pytest.raises(error_of(case)) as raised:
        functions.call(case)
    assert_refuses(case, raised)


# One fault, of which a later check sees a consequence: two silos of one name also have
# one key, an altered envelope doesn't open, a shorter vector has another size.
SEEN_TWICE = {
    "advertise_bad_unrostered", "confirm_bad_unrostered", "mask_bad_envelope_altered",
    "mask_bad_envelope_doubled", "mask_bad_envelope_redirected",
    "mask_bad_envelope_truncated", "mask_bad_envelope_withheld",
    "mask_bad_envelopes_swapped", "mask_bad_length", "mask_bad_payload_truncated",
    "release_bad_dealer_of_a_key", "release_bad_dealer_of_a_seed",
    "release_bad_other_contributors", "release_bad_shape",
    "reveal_bad_quorum_unrostered", "share_bad_ledger_back", "share_bad_other_holders",
    "share_bad_u1_small", "share_bad_u1_twin", "share_bad_u1_twin_key",
    "share_bad_u1_unrostered", "share_bad_u1_without_us",
}  # fmt: skip


# There is no row of the table, and no letter, to go on with.
NO_WAY_ON = ("takes no", "doesn't open", "98 bytes")


@pytest.mark.parametrize(
    "case", bad([case for case in STEPS if case.get("because") not in NO_WAY_ON])
)
def test_a_bad_step_is_bad_for_one_reason(monkeypatch, case):
    """Without the one check that refuses it, it is taken."""
    because = case["because"]

    def tolerant(check):
        def checked(*given):
            try:
                return check(*given)
            except keys.Bad as error:
                if because not in str(error):
                    raise

        return checked

    def expect(holds, what, fault=keys.Bad):
        if not holds and because not in what:
            raise fault(what)

    for module in (checks, silo_steps, aggregator_steps):
        monkeypatch.setattr(module, "expect", expect)
    for owner, name in (
        (checks, "_verify"),
        (checks, "check_public"),
        (fixed_point, "check_sum"),
        (tag.TagKey, "check"),
    ):
        monkeypatch.setattr(owner, name, tolerant(getattr(owner, name)))
    if case["name"] not in SEEN_TWICE:
        replay.run(WORLD, MESSAGES, case)
        return
    with pytest.raises((errors.FeditError, ValueError, LookupError)):
        replay.run(WORLD, MESSAGES, case)


@pytest.mark.parametrize("case", bad(STEPS))
def test_a_bad_step_is_bad_for_its_changes_alone(case):
    """The same messages unchanged are taken, unless their order is what is wrong."""
    if case.get("changes"):
        replay.run(WORLD, MESSAGES, {**case, "changes": {}})
    else:
        names = case["takes"]
        assert names != taken_in_the_release(case, names[-1])


def taken_in_the_release(case: dict[str, Any], last: str) -> list[str]:
    """What this party takes up to this message where all is well."""
    found = [
        list(other["takes"])
        for other in STEPS
        if (other["party"], other["takes"][-1]) == (case["party"], last)
        and not {"error", "changes"} & other.keys()
    ]
    return found[0] if found else []


@pytest.mark.parametrize("case", bad(STEPS))
def test_a_bad_message_is_well_signed_unless_its_signature_is_what_is_wrong(case):
    """Else it would be refused for two reasons."""
    for name in case.get("changes", {}):
        message = replay.message_of(WORLD, MESSAGES, case, name)
        wrong = sum(not is_signed(part) for part in signed_parts(message))
        expected = case["because"] in ("signature", "a wrong signature") or (
            case["because"].startswith("a wrong signature")
        )
        assert wrong == int(expected), f"{name} has {wrong} wrong signatures"


def signed_parts(message: Any) -> list[Signed]:
    """A message and those in it that somebody signed."""
    found = [message] if isinstance(message, Signed) else []
    for name in getattr(type(message), "__dataclass_fields__", {}):
        value = getattr(message, name)
        for part in value if isinstance(value, tuple) else (value,):
            found += signed_parts(part)
    return found


def is_signed(message: Any) -> bool:
    """Whether a silo of the roster, or the aggregator where none is named, signed it; a
    silo without a number in it signs with the last key."""
    by_silo = type(message).__name__ not in (
        "Offer", "AdvertSet", "ShareSet", "UploadAck", "SurvivorSet", "PublishedSum",
        "VoidRequest",
    )  # fmt: skip
    who = message.silo if by_silo else AGGREGATOR
    known = [WORLD.key(i).public for i in range(WORLD.params.silos)]
    public = WORLD.key(AGGREGATOR).public
    for key in known[who : who + 1] or known if by_silo else [public]:
        try:
            keys.verify(key, message.signed_digest(), message.signature)
        except keys.BadSignature:
            continue
        return True
    return False


def test_names_are_unique_and_say_what_is_bad():
    names = [case["name"] for case in CASES]
    assert len(set(names)) == len(names)
    for case in CASES:
        assert ("_bad_" in case["name"]) == ("error" in case), case["name"]
        assert case["comment"].endswith(".")
        assert case.keys() >= ({"error", "suspect", "because"} & case.keys())


def test_every_step_has_good_and_bad_cases():
    """Every row of the silo's table, by the states that a case leads to."""
    reached = set()
    for case in STEPS:
        if "error" not in case and case["party"].startswith("silo"):
            step = replay.run(WORLD, MESSAGES, case)
            reached.add((type(step.before), type(step.message)))
    unseen = {
        (state.__name__, message.__name__)
        for state, message in SILO.keys() - reached
        if message.__name__ not in ("Deadline", "VoidRequest")
    }
    assert not unseen
    for file, held in HELD.items():
        if file not in ("setting", "context"):
            kinds = {"_bad_" in case["name"] for case in held["cases"]}
            assert kinds == {True, False}, file


def test_every_suspect_is_named_somewhere():
    seen = {(case["error"], case["suspect"]) for case in CASES if "error" in case}
    assert seen >= {
        ("FaultyAggregator", "aggregator"),
        ("FaultySilo", "silo-2"),
        ("FaultySiloOrAggregator", "silo-2"),
        ("FaultySiloOrAggregator", "any contributor"),
        ("ProtocolError", None),
        ("AttemptFailed", None),
        ("Bad", None),
        ("ValueError", None),
    }


def test_the_release_has_one_drop_before_mask_and_one_after():
    headers = {header["silo"] for header in MESSAGES["u3"]["headers"]}
    dealers = {dealt["dealer"] for dealt in MESSAGES["u2 to 0"]["statements"]}
    signers = {agreement["silo"] for agreement in MESSAGES["quorum"]["agreements"]}
    assert (dealers - headers, headers - signers) == ({4}, {1})
    updates = [silo["update"] for silo in HELD["setting"]["silos"]]
    each = zip(*(updates[u] for u in headers), strict=True)
    assert MESSAGES["published"]["total"] == [sum(column) for column in each]


def test_every_message_is_read_as_it_is_written():
    for name, written in MESSAGES.items():
        assert write(read(written)) == written, name
    for held in HELD.values():
        for name, digest in held.get("signed_digests", {}).items():
            assert read(MESSAGES[name]).signed_digest().hex() == digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"a": 1, "b": [1, 2]}, {"a": 1, "b": [1, 3]}),
        ({"a": [1, 2, 3]}, {"a": [1, 3]}),
        ({"a": [1, 2]}, {"a": [1, 2, 2]}),
        ({"a": [1, 2, 3, 4]}, {"a": [4]}),
        ({"a": [{"b": "x"}, {"b": "y"}]}, {"a": [{"b": "y"}, {"b": "x"}]}),
    ],
)
def test_a_difference_is_a_patch(old, new):
    assert patched(old, difference(old, new)) == new
    assert difference(old, old) == []


def test_the_files_are_readable_and_small():
    assert sum(len(path.read_bytes()) for path in generate.FOLDER.iterdir()) < 400_000
    value = {
        "numbers": list(range(100)),
        "long": ["x" * 60, "y" * 60],
        "short": {"a": 1},
    }
    assert json.loads(dump(value)) == value
    lines = dump(value).splitlines()
    assert max(map(len, lines)) <= WIDTH + 3
    assert len(lines) == 13


def test_an_earlier_refusal_is_no_outcome_of_a_case():
    """A case whose history is refused fails loudly."""
    case = next(x for x in STEPS if x["name"] == "share_bad_u1_signature")
    longer = {**case, "takes": [*case["takes"], "u2 to 0"]}
    with pytest.raises(AssertionError, match="u1 must be accepted"):
        replay.run(WORLD, MESSAGES, longer)


def test_the_aggregators_patch_is_signed_again():
    shown = good_cases.signed_again(WORLD, AGGREGATOR, MESSAGES["u3"])
    assert shown == MESSAGES["u3"]
