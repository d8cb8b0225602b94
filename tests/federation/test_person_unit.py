"""A charter whose privacy unit is the person, from cards to policy."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from fedit_secure.errors import ConfigError, PolicyRefusal
from fedit_secure.federation.admission import Account, admit
from fedit_secure.federation.card import Card, sign_card
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.drafting import (
    DEFAULT_RECORDS_PER_PERSON,
    PlannedDp,
    unit_of,
)
from fedit_secure.federation.policy import Policy, check_delta, check_terms
from fedit_secure.privacy.ledger import Ledger, Opened

ME = "clinic-a"
# The rates of the charter per record: another one would take its own calibration.
PERSONS = {"clinic-a": 800, "clinic-b": 400, "clinic-c": 1600, "clinic-d": 800}
BATCHES = {"clinic-a": 64, "clinic-b": 32, "clinic-c": 128, "clinic-d": 64}
DP = {"epsilon": 8, "delta": 1e-6, "expected_batch": BATCHES}
SECRET = DP | {"expected_batch": 64, "sample_rate": 0.08, "sizes": "secret"}


def resigned(identity, **changes):
    """A party's card with other contents, signed again."""
    card = identity.card
    fields = {
        "name": card.name,
        "role": card.role,
        "issuer_certificate": card.issuer_certificate,
        "population": card.population,
        "records": card.records,
        "expires": card.expires,
        "contact": card.contact,
    }
    return sign_card(identity.signing, **(fields | changes))


@pytest.fixture(scope="module")
def person_cards(parties):
    """Cards that tell persons and no records."""
    return [
        resigned(identity, records=None, persons=PERSONS[name])
        if name in PERSONS
        else identity.card
        for name, identity in parties.items()
    ]


@pytest.fixture(scope="module")
def by_person(make_plan, make_charter, person_cards):
    return make_charter(make_plan(), person_cards)


def changed(charter, **updates):
    content = charter.model_dump(mode="json")
    for key, value in updates.items():
        *sections, last = key.split("__")
        inner = content
        for section in sections:
            inner = inner[int(section) if section.isdigit() else section]
        inner[last] = value
    return Charter.model_validate(content)


# --------------------------------------------------------------------------------- cards


def test_a_card_tells_persons_or_only_that_it_names_them(parties):
    told = resigned(parties[ME], persons=300)
    assert (told.persons, told.names_persons, told.records) == (300, True, 800)
    told.check()
    untold = resigned(parties[ME], names_persons=True)
    assert (untold.persons, untold.names_persons) == (None, True)
    for card in (told, untold):
        assert Card.from_bytes(card.to_bytes(), "c.card") == card


def test_a_card_without_persons_is_the_card_it_always_was(parties):
    text = parties[ME].card.to_bytes()
    assert b"persons" not in text
    spelt = text.replace(b'  "population"', b'  "persons": null,\n  "population"')
    with pytest.raises(ConfigError, match="canonical form"):
        Card.from_bytes(spelt, "c.card")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"persons": 801}, "more persons than records"),
        ({"persons": 0}, "greater than or equal to 1"),
    ],
)
def test_a_card_that_does_not_hold_together_is_refused(parties, changes, why):
    with pytest.raises(ValidationError, match=why):
        resigned(parties[ME], **changes)


def test_a_forged_count_breaks_the_signature(parties):
    told = resigned(parties[ME], persons=300)
    for change in ({"persons": 301}, {"persons": None}, {"names_persons": None}):
        with pytest.raises(ConfigError, match="isn't signed"):
            told.model_copy(update=change).check()


def test_an_aggregator_has_no_persons(parties):
    with pytest.raises(ValidationError, match="no persons"):
        resigned(parties["hub"], persons=3)


# -------------------------------------------------------------------------------- drafts


def test_the_person_is_the_default_where_every_card_names_persons(by_person):
    assert by_person.dp.unit == "person"
    assert by_person.dp.records_per_person == DEFAULT_RECORDS_PER_PERSON == 16
    assert {row.name: row.persons for row in by_person.roster} == PERSONS
    assert {row.records for row in by_person.roster} == {None}
    plan = by_person.plan_for("clinic-b")
    assert (plan.unit, plan.records_per_person) == ("person", 16)
    assert plan.sample_rate == 32 / 400


def test_records_that_a_card_tells_stay_out_of_a_charter_per_person(
    parties, make_plan, make_charter
):
    cards = [
        resigned(identity, records=7777, persons=PERSONS[name])
        if name in PERSONS
        else identity.card
        for name, identity in parties.items()
    ]
    drafted = make_charter(make_plan(), cards)
    assert b"7777" not in drafted.to_bytes()
    drafted.check_card(cards[0])


def test_one_silo_without_persons_makes_it_a_charter_per_record(
    parties, make_plan, make_charter, person_cards, cards
):
    mixed = [
        resigned(parties[c.name], persons=300) if c.name == ME else c for c in cards
    ]
    assert make_charter(make_plan(), mixed).dp.unit == "record"
    with pytest.raises(ConfigError, match="not every silo's card"):
        make_charter(make_plan(dp=DP | {"unit": "person"}), mixed)


def test_a_planned_unit_wins(parties, make_plan, make_charter, cards):
    named = [
        resigned(parties[c.name], names_persons=True) if c.role == "silo" else c
        for c in cards
    ]
    drafted = make_charter(make_plan(dp=DP | {"unit": "record"}), named)
    assert drafted.dp.unit == "record"
    assert drafted.row(ME).records == 800
    with pytest.raises(
        ConfigError, match=r"silos\.clinic-a\.persons' tells its persons"
    ):
        make_charter(make_plan(), named)
    told = {name: {"persons": count} for name, count in PERSONS.items()}
    by_plan = make_charter(make_plan(silos=told), named)
    assert by_plan.row("clinic-b").persons == 400


def test_a_charter_per_record_has_the_bytes_it_always_had(charter):
    assert b"person" not in charter.to_bytes()


def test_secret_sizes_tell_no_persons(make_plan, make_charter, person_cards):
    drafted = make_charter(make_plan(dp=SECRET), person_cards)
    assert drafted.dp.unit == "person"
    assert {row.units for row in drafted.roster} == {None}


def test_unit_of_a_plan():
    planned = PlannedDp.model_validate(DP)
    assert unit_of(planned, [True, True]) == "person"
    assert unit_of(planned, [True, False]) == "record"
    assert (
        unit_of(PlannedDp.model_validate(DP | {"unit": "record"}), [True]) == "record"
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"weights": "records"}, "go by records, but it is per person.*by persons"),
        ({"silos": {ME: {"persons": 5}}}, "5 persons, its card 800"),
        ({"dp": DP | {"expected_batch": 500}}, "'clinic-b' has 400 persons, fewer"),
        (
            {"dp": DP | {"unit": "record", "records_per_person": 4},
             "silos": {name: {"records": n} for name, n in PERSONS.items()}},
            "'dp.records_per_person' is for unit person",
        ),
        ({"weights": "persons", "dp": SECRET}, "would tell sizes that are secret"),
    ],
)  # fmt: skip
def test_a_plan_that_does_not_hold_together_is_refused(
    make_plan, make_charter, person_cards, changes, why
):
    with pytest.raises(ConfigError, match=why):
        make_charter(make_plan(**changes), person_cards)


def test_weights_by_persons(make_plan, make_charter, person_cards, cards):
    weighted = make_charter(make_plan(weights="persons"), person_cards)
    assert [row.weight for row in weighted.roster] == [800, 400, 1600, 800]
    with pytest.raises(ConfigError, match="go by persons, but it is per record"):
        make_charter(make_plan(weights="persons"), cards)


def test_a_cap_of_ones_own(make_plan, make_charter, person_cards):
    drafted = make_charter(make_plan(dp=DP | {"records_per_person": 4}), person_cards)
    assert drafted.plan_for(ME).records_per_person == 4
    again = Charter.from_bytes(drafted.to_bytes(), "charter.json")
    assert again == drafted


# ------------------------------------------------------------------------------- charter


@pytest.mark.parametrize(
    ("updates", "why"),
    [
        ({"roster__0__persons": None}, "'clinic-a' tells no persons"),
        ({"roster__0__persons": 900}, "isn't expected batch / persons"),
        ({"roster__0__dp__sample_rate": 0.5}, "isn't expected batch / persons"),
        (
            {"roster__0__records": 5000},
            "is per person, but silo 'clinic-a' tells records",
        ),
        ({"dp__unit": "record"}, "is per record, but silo 'clinic-a' tells persons"),
        ({"dp__records_per_person": None}, "needs records_per_person"),
        ({"dp__sizes": "secret"}, "secret sizes need"),
    ],
)
def test_a_charter_that_does_not_hold_together_is_refused(by_person, updates, why):
    content = by_person.model_dump(mode="json")
    assert "records_per_person" in content["dp"]
    with pytest.raises(ValidationError, match=why):
        changed(by_person, **updates)


def test_a_cap_is_not_for_records(charter):
    with pytest.raises(ValidationError, match="is for a plan per person"):
        changed(charter, dp__records_per_person=4)


def test_an_altered_person_count_is_refused(by_person, person_cards):
    by_person.check_card(person_cards[0])
    other = changed(
        by_person, roster__0__persons=640, roster__0__dp__sample_rate=64 / 640
    )
    with pytest.raises(PolicyRefusal, match="640 persons, its card 800"):
        other.check_card(person_cards[0])


# -------------------------------------------------------------------------------- policy


def policy(**changes):
    return Policy(
        **({"epsilon": 8.0, "delta": 1e-6, "tell_record_count": True} | changes)
    )


def test_a_policy_may_ask_for_persons(charter, by_person):
    strict = policy(require_person_unit=True)
    with pytest.raises(
        PolicyRefusal, match=r"protects single records.*asks for persons"
    ):
        check_terms(charter, ME, strict)
    check_terms(by_person, ME, strict)
    check_terms(charter, ME, policy())


def test_the_number_of_persons_is_told_only_where_allowed(by_person):
    with pytest.raises(PolicyRefusal, match=r"number of persons.*tell_record_count"):
        check_terms(by_person, ME, policy(tell_record_count=False))


def test_delta_is_bounded_by_the_persons(by_person):
    dp = by_person.dp.model_copy(update={"delta": 1 / 8000})
    loose = by_person.model_copy(update={"dp": dp})
    check_delta(loose, 800)
    with pytest.raises(PolicyRefusal, match=r"1/\(10 \* persons\)"):
        check_delta(loose, 801)


@pytest.mark.parametrize("unit", ["record", "person"])
def test_attack_a_charter_of_the_other_unit_on_a_ledger(charter, by_person, unit):
    """Two charters that mix units on one population: the second is refused by name."""
    own, other = (charter, by_person) if unit == "record" else (by_person, charter)
    ledger = Ledger.open(
        Opened(
            silo=ME,
            identity="ab" * 32,
            population=ME,
            unit=unit,
            adjacency="zero-out",
            delta=1e-6,
            cap_epsilon=None,
            filter_order=8.0,
            fingerprints="cd" * 32,
            software="test",
        )
    )
    relaxed = Account(ME, policy(epsilon=1000.0), ledger)
    admit(own, ME, relaxed)
    with pytest.raises(PolicyRefusal, match=rf"per {other.dp.unit}.*ledger per {unit}"):
        admit(other, ME, relaxed)
