from __future__ import annotations

import json
from datetime import UTC, date, datetime

import pytest
from pydantic import ValidationError

from fedit_secure.errors import ConfigError, PolicyRefusal
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.identity import create_identity
from fedit_secure.federation.words import words

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECRET = {
    "epsilon": 8,
    "delta": 1e-6,
    "expected_batch": 64,
    "sample_rate": 0.1,
    "sizes": "secret",
}
NO_DP = {"kind": "none", "expected_batch": 64}


def changed(charter, **updates):
    """The charter with fields replaced, as a file of its own (dotted keys)."""
    content = charter.model_dump(mode="json")
    for key, value in updates.items():
        inner = content
        *sections, last = key.split("__")
        for section in sections:
            inner = inner[int(section) if section.isdigit() else section]
        inner[last] = value
    return Charter.model_validate_json(json.dumps(content))


# ---------------------------------------------------------------------------- the file


def test_round_trip(charter, tmp_path):
    path = tmp_path / "charter.json"
    path.write_bytes(charter.to_bytes())
    again = Charter.load(path)
    assert again == charter
    assert again.digest() == charter.digest()
    assert charter.words() == words(charter.digest())
    assert charter.to_bytes().endswith(b"}\n")
    charter.to_bytes().decode("ascii")


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace('"epoch": 1', '"epoch":1'),
        lambda text: text.replace('"rounds": 3', '"rounds": 3,\n  "rounds": 3'),
        lambda text: text.replace('"alpha": 16.0', '"alpha": 16'),
        lambda text: text.replace('"alpha": 16.0', '"alpha": 1.6e1'),
        lambda text: text.replace('"north"', '"\\u006eorth"'),
        lambda text: text + "\n",
        lambda text: json.dumps(json.loads(text)),
        lambda text: "\ufeff" + text,
    ],
)
def test_another_spelling_of_the_same_charter_is_refused(charter, edit):
    text = charter.to_bytes().decode()
    edited = edit(text)
    assert edited != text
    with pytest.raises(ConfigError, match=r"canonical form|not JSON"):
        Charter.from_bytes(edited.encode(), "charter.json")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"epoch": 1,', '"epoch": 1,\n  "extra": 1,', "'extra' is unknown"),
        ('  "epoch": 1,\n', "", "'epoch' is missing"),
        ('"rounds": 3', '"rounds": "3"', "'rounds' should be a valid integer"),
        ('"rounds": 3', '"rounds": 0', "'rounds' should be greater"),
        ('"alpha": 16.0', '"alpha": NaN', "not JSON|'adapter.alpha'"),
        ('"clip": 1.0', '"clip": Infinity', "not JSON|'dp.clip'"),
        ('"kind": "local"', '"kind": "central"', "'dp.kind'"),
        ('"name": "fedavg"', '"name": "median"', "'update_rule'"),
        (
            '"name": "fedavg"',
            '"name": "fedadam"',
            "'update_rule.fedadam.learning_rate' is missing",
        ),
    ],
)
def test_a_bad_field_is_named(charter, old, new, why):
    text = charter.to_bytes().decode()
    assert old in text
    with pytest.raises(ConfigError, match=rf"^c\.json: .*({why})") as caught:
        Charter.from_bytes(text.replace(old, new, 1).encode(), "c.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_charter_is_refused(data):
    with pytest.raises(ConfigError, match=r"^c\.json: "):
        Charter.from_bytes(data, "c.json")


def test_every_field_is_in_the_digest(charter):
    """Walks the whole file: no value can change under an approval."""
    base = json.loads(charter.to_bytes())
    seen = {charter.digest()}

    def walk(value, path):
        if isinstance(value, dict):
            for key in value:
                walk(value[key], (*path, key))
        elif isinstance(value, list):
            for index, part in enumerate(value):
                walk(part, (*path, index))
        else:
            content = json.loads(charter.to_bytes())
            inner = content
            for part in path[:-1]:
                inner = inner[part]
            inner[path[-1]] = "other" if isinstance(value, str) else 7
            data = json.dumps(content, indent=2, sort_keys=True).encode() + b"\n"
            try:
                other = Charter.from_bytes(data, "c")
            except ConfigError:
                return
            seen.add(other.digest())
            changes.append(path)

    changes: list[tuple] = []
    walk(base, ())
    assert len(seen) == 1 + len(changes)
    assert len(changes) > 15


# ------------------------------------------------------------------ what must hold in it


@pytest.mark.parametrize(
    ("updates", "why"),
    [
        ({"epoch": 2}, "no predecessor"),
        ({"predecessor": "ab" * 32}, "no predecessor"),
        ({"secagg__minimum": 2}, "must be m_min, which is 3"),
        ({"secagg__minimum": 5}, "m_min <= N"),
        ({"secagg__corrupt": 0}, "1 <= c"),
        ({"dp__epsilon": None}, "must name its epsilon"),
        ({"dp__delta": None}, "must name its epsilon"),
        ({"dp__kind": "none"}, "can't name an epsilon"),
        ({"dp__sizes": "secret"}, "secret sizes need"),
        ({"roster__0__records": None}, "'clinic-a' tells no records"),
        ({"roster__0__records": 900}, "sample rate isn't"),
        ({"roster__0__dp__sample_rate": 0.5}, "sample rate isn't"),
        ({"roster__1__name": "clinic-a"}, "unique"),
    ],
)
def test_what_does_not_hold_together_is_refused(charter, updates, why):
    with pytest.raises(ValidationError, match=why):
        changed(charter, **updates)


@pytest.mark.parametrize("field", ["identity", "issuer_certificate"])
def test_parties_may_not_share_keys(charter, field):
    for other in (charter.roster[0], charter.aggregator):
        with pytest.raises(ValidationError, match=r"unique|share an issuer"):
            changed(charter, **{f"roster__1__{field}": getattr(other, field)})


# ------------------------------------------------------------------------------- helpers


def test_roster_and_parameters(charter, parties):
    roster = charter.secagg_roster()
    assert [m.name for m in roster.members] == ["clinic-a", "clinic-b", "clinic-c",
                                                "clinic-d"]  # fmt: skip
    assert roster.members[2].verify_key == parties["clinic-c"].signing.public
    assert roster.aggregator_key == parties["hub"].signing.public
    assert charter.silo_index("clinic-c") == 2
    params = charter.secagg_params()
    assert (params.silos, params.corrupt, params.threshold) == (4, 1, 3)
    assert params.length == charter.length == 14
    assert params.bound == pytest.approx(1.2 * 1e-3 * 8)


def test_an_unknown_silo_is_refused(charter):
    for call in (charter.silo_index, charter.row, charter.plan_for):
        with pytest.raises(PolicyRefusal, match="'clinic-x' isn't in the roster"):
            call("clinic-x")


def test_the_plan_of_a_silo(charter):
    plan = charter.plan_for("clinic-b")
    assert plan.sample_rate == 32 / 400
    assert (plan.expected_batch, plan.local_steps, plan.rounds) == (32, 8, 3)
    assert (plan.clip, plan.delta, plan.spare_charges) == (1.0, 1e-6, 1)
    assert plan.noise_multiplier > 0


def test_own_card_must_be_in_the_file_unaltered(charter, parties):
    charter.check_card(parties["clinic-a"].card)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stranger") / "x"
    return create_identity(folder, "x", "silo", "x", now=NOW).card


@pytest.mark.parametrize("field", ["identity", "issuer_certificate", "population"])
def test_substituted_card(charter, parties, stranger, field):
    altered = changed(charter, **{f"roster__0__{field}": getattr(stranger, field)})
    with pytest.raises(PolicyRefusal, match="'clinic-a' isn't this silo's own card"):
        altered.check_card(parties["clinic-a"].card)
    altered.check_card(parties["clinic-b"].card)


@pytest.mark.parametrize("place", ["roster__0__", "aggregator__"])
def test_a_smuggled_certificate_is_refused(charter, stranger, place):
    own = charter.roster[0] if "roster" in place else charter.aggregator
    for pem in (
        own.issuer_certificate + stranger.issuer_certificate,
        own.issuer_certificate + "\n",
        "no certificate",
    ):
        with pytest.raises(
            ValidationError, match=r"(clinic-a|aggregator).*certificate"
        ):
            changed(charter, **{f"{place}issuer_certificate": pem})


def test_an_altered_record_count_is_refused(charter, parties):
    batch = changed(
        charter, roster__0__records=640, roster__0__dp__sample_rate=64 / 640
    )
    with pytest.raises(PolicyRefusal, match="640 records, its card 800"):
        batch.check_card(parties["clinic-a"].card)


def test_an_aggregator_is_no_silo(charter, parties):
    with pytest.raises(PolicyRefusal, match="isn't in the roster"):
        charter.check_card(parties["hub"].card)


def test_expiry(charter):
    charter.check_date(date(2027, 1, 31))
    with pytest.raises(PolicyRefusal, match="expired on 2027-01-31"):
        charter.check_date(date(2027, 2, 1))


# -------------------------------------------------------------------------------- drafts


def test_a_new_epoch_names_its_predecessor(charter, make_plan, make_charter, cards):
    second = make_charter(make_plan(run="second"), cards, predecessor=charter)
    assert (second.epoch, second.predecessor) == (2, charter.digest().hex())
    second.check_successor(charter)
    with pytest.raises(ConfigError, match="doesn't name the given epoch 2"):
        second.check_successor(second)
    third = make_charter(make_plan(), cards, predecessor=second)
    with pytest.raises(ConfigError, match="doesn't name the given epoch 1"):
        third.check_successor(charter)
    with pytest.raises(ConfigError, match="can't follow 'north'"):
        make_charter(make_plan(federation="south"), cards, predecessor=charter)


def test_secret_sizes_show_no_size(make_plan, make_charter, cards):
    drafted = make_charter(make_plan(dp=SECRET), cards)
    assert {row.records for row in drafted.roster} == {None}
    assert len({row.dp for row in drafted.roster}) == 1
    assert {row.weight for row in drafted.roster} == {1}
    text = drafted.to_bytes()
    assert text.count(b'"records": null') == 4
    assert text.count(b'"weight": 1,') + text.count(b'"weight": 1\n') == 4


def test_without_dp_there_is_no_noise(make_plan, make_charter, cards):
    drafted = make_charter(make_plan(dp=NO_DP), cards)
    assert {row.dp.noise_multiplier for row in drafted.roster} == {0.0}
    assert drafted.dp.epsilon is None


def test_weights_by_records_and_by_name(make_plan, make_charter, cards):
    by_records = make_charter(make_plan(weights="records"), cards)
    assert [row.weight for row in by_records.roster] == [800, 400, 1600, 800]
    names = {"clinic-a": 1, "clinic-b": 2, "clinic-c": 3, "clinic-d": 4}
    by_name = make_charter(make_plan(weights=names), cards)
    assert [row.weight for row in by_name.roster] == [1, 2, 3, 4]


def test_cards_in_any_order_give_the_same_charter(
    charter, make_plan, make_charter, cards
):
    assert make_charter(make_plan(), cards[::-1]).to_bytes() == charter.to_bytes()


BASE_DP = {"epsilon": 8, "delta": 1e-6, "expected_batch": 64}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"expires": date(2040, 1, 1)}, "expires on 2029-02-28, before the charter"),
        ({"expires": date(2026, 2, 1)}, "'expires', 2026-02-01, is in the past"),
        ({"silos": {"clinic-x": {}}}, "'silos' names silo 'clinic-x', which gave no card"),
        ({"silos": {"clinic-a": {"records": 5}}}, "5 records, its card 800"),
        ({"weights": {"clinic-a": 1}}, "'weights' lacks silo 'clinic-b'"),
        ({"weights": "records", "dp": SECRET}, "would tell sizes that are secret"),
        ({"dp": BASE_DP | {"expected_batch": {"clinic-a": 9}}}, "lacks silo 'clinic-b'"),
        ({"dp": BASE_DP | {"expected_batch": 500}}, "'clinic-b' has 400 records, fewer"),
        ({"dp": BASE_DP | {"sample_rate": 0.1}}, "follows from them"),
        ({"dp": SECRET | {"sample_rate": None}}, "needs 'dp.sample_rate'"),
        ({"dp": {"expected_batch": 64}}, "'dp.epsilon' and 'dp.delta'"),
        ({"dp": BASE_DP | {"epsilon": 1000}}, "privacy part doesn't do: .* use more noise"),
        ({"tuning": {"learning_rate": 1, "local_steps": 1, "optimizer": "sgd"}},
         "needs 'secagg.bound'"),
        ({"secagg": {"minimum": 5}}, "m_min <= N"),
        ({"secagg": {"corrupt": 3}}, "c <= N - 2"),
    ],
)  # fmt: skip
def test_a_plan_that_does_not_do(make_plan, make_charter, cards, changes, why):
    with pytest.raises(ConfigError, match=why) as caught:
        make_charter(make_plan(**changes), cards)
    assert "\n" not in str(caught.value)


def test_cards_that_do_not_do(make_plan, make_charter, cards, parties):
    plan, hub = make_plan(dp=BASE_DP), parties["hub"].card
    silos = [card for card in cards if card.role == "silo"]
    forged = silos[0].model_copy(update={"records": 799})
    for given, why in [
        (silos, "one aggregator's card, not 0"),
        ([*cards, hub], "two cards have the name 'hub'"),
        ([hub, silos[0]], "at least two silos' cards, not 1"),
        ([hub, forged, *silos[1:]], "'clinic-a' isn't signed by its identity"),
        ([hub, silos[0], silos[0], silos[1]], "two cards have the name"),
        ([hub, silos[0], silos[1]], "allow_pair"),
    ]:
        with pytest.raises(ConfigError, match=why):
            make_charter(plan, given)


def test_sgd_with_a_bound(make_plan, make_charter, cards):
    tuning = {"learning_rate": 0.1, "local_steps": 1, "optimizer": "sgd"}
    plan = make_plan(tuning=tuning, secagg={"bound": 0.25})
    assert make_charter(plan, cards).secagg_params().bound == 0.25
