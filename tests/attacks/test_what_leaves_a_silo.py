"""Nothing that is derived from records leaves a silo but the noised update, masked.

A whole federation runs several times under the same chance and the same clock, and the
records of one silo differ as far as they can. Every message, time, size, log entry, event,
file and exit status is then the same, but for the fields that `what_may_leave.py` lists.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks.differences import differences
from attacks.seen import VICTIM, Fetch, Seen
from attacks.what_may_leave import (
    FIELDS,
    class_of,
    leaves,
    names_of,
    status_classes,
    status_fields,
)
from attacks.whole_run import Kill, seconds_of
from attacks.worlds import INDEX, NAMES, SLOT, World

from fedit_secure.errors import TuningFailed
from fedit_secure.privacy import events
from fedit_secure.secagg import fixed_point
from fedit_secure.secagg import messages as m
from fedit_secure.silo.fingerprints import Prints
from fedit_secure.simulation.parties import LocalFederation, found_federation
from fedit_secure.simulation.run import run_plan
from fedit_secure.storage.journal import Journal
from fedit_secure.tuning.job import DataSource
from fedit_secure.tuning.records import load_records
from fedit_secure.wire import frames as f
from fedit_secure.wire.codec import BODIES, UPLOAD_HEADER, PublishedNotice
from fedit_secure.wire.fields import Record

# Round 1: two silos die once they have masked, the attempt is voided and renewed; in the
# next one the victim dies too early to be in the sum. Round 2: a silo dies in masking, and
# its mask key is recovered. Round 3: nothing.
KILLS = (
    Kill(VICTIM, m.Agreement, 1),
    Kill("west", m.Agreement, 1),
    Kill(VICTIM, m.ShareBundle, 2),
    Kill("south", m.MaskedUpload, 3),
)


@pytest.fixture(scope="module")
def usual(world: World) -> Seen:
    return world.watch("first", "usual", kills=KILLS)


def kinds(seen: Seen) -> set[type]:
    return {type(p.frame) for p in seen.passed}


def test_the_run_has_all_that_is_to_be_looked_at(usual: Seen) -> None:
    """A failed attempt, a certificate, a silo that is recovered, restarts, three sums."""
    sums = [p.frame for p in usual.passed if isinstance(p.frame, PublishedNotice)]
    assert {s.contributors for s in sums} == {(1, 2, 3), (0, 1, 3), (0, 1, 2, 3)}
    entries = [
        json.loads(x)["kind"] for x in usual.files["ledgers/east.jsonl"].splitlines()
    ]
    assert entries.count("intent") == 3
    assert {"masked", "voided", "renewed", "revealed", "released"} <= set(entries)
    assert usual.ended.count((VICTIM, "killed")) == 2
    assert (VICTIM, "0") in usual.ended
    assert f.FROM_SILO - {f.Refused} <= kinds(usual)


def test_the_same_records_give_the_same_bytes(world: World, usual: Seen) -> None:
    """Chance and clock are in hand: nothing else makes two runs differ."""
    again = world.watch("again", "usual", kills=KILLS)
    assert [p.raw for p in again.passed] == [p.raw for p in usual.passed]
    assert again.files == usual.files
    assert (again.logged, again.printed) == (usual.logged, usual.printed)


@pytest.mark.parametrize("data", ["zeroed", "extreme"])
def test_other_records_change_the_masked_update_alone(
    world: World, usual: Seen, data: str
) -> None:
    other = world.watch(data, data, kills=KILLS)
    assert differences(usual, other, INDEX, ideal=True) == []
    # What is under the mask does change; and without the mask, which is the same until a
    # sum has the victim's update in it, nothing else is there.
    assert [len(seen.uploads) for seen in (usual, other)] == [3, 3]
    for (a, mine), (b, others) in zip(
        usual.uploads[:2], other.uploads[:2], strict=True
    ):
        apart = mine.astype(np.int64) - others
        assert apart.any()
        assert ((in_the_ring(a) - in_the_ring(b) - apart) % 2**24 == 0).all()


def in_the_ring(upload: m.MaskedUpload) -> np.ndarray:
    """The masked coordinates of an upload, as they stand on the wire."""
    length = (len(upload.payload) - 8) // 3
    return fixed_point.unpack(upload.payload, length, 24).astype(np.int64)


def test_what_rests_on_nothing_keyed_is_the_same_without_that_assumption(
    world: World,
) -> None:
    """The keyed digests as they are: what isn't bound to them is still the same."""
    one, two = (
        world.watch(f"real {data}", data, kills=KILLS, ideal=False)
        for data in ("usual", "extreme")
    )
    assert differences(one, two, INDEX, ideal=False) == []
    digests = [
        [x.update_digest for x in entries_of(seen) if isinstance(x, events.Committed)]
        for seen in (one, two)
    ]
    assert digests[0] != digests[1]  # so the comparison above was one of other digests


def entries_of(seen: Seen) -> list[events.Event]:
    """Of the victim's ledger, as the aggregator has it."""
    lines = seen.files[f"ledgers/{VICTIM}.jsonl"].splitlines()
    return [events.decode(line) for line in lines]


def test_no_print_of_a_record_leaves(world: World, usual: Seen) -> None:
    """They are kept to tell populations apart, and stay in the journal."""
    records = load_records(DataSource(path=str(world.data["usual"])))
    key = world.founded["public"].silos[VICTIM].signing
    prints = Prints.of(records, key)
    assert len(prints.records) > 10
    journal = world.folder / "public-first" / VICTIM / "state" / "journal.sqlite"
    with Journal.open(journal, read_only=True) as kept:
        assert kept.note(f"prints/{VICTIM}") == prints.to_bytes()
    left = [p.raw for p in usual.passed] + list(usual.files.values())
    told = b"\n".join(left) + repr((usual.logged, usual.printed)).encode()
    for each in prints.records | prints.persons:
        assert each not in told
        assert each.hex().encode() not in told


def test_secret_sizes_hide_how_many_records_there_are(world: World) -> None:
    one, two = (
        world.watch(data, data, "secret", kills=KILLS) for data in ("usual", "few")
    )
    assert differences(one, two, INDEX, ideal=True) == []


def test_founding_reads_no_record_but_to_count_public_ones(
    world: World, tmp_path: Path
) -> None:
    """Cards, approvals and charter: what stands before the first connection."""
    nowhere = {name: DataSource(path="nowhere.jsonl") for name in NAMES}
    found_federation(tmp_path / "secret", run_plan(world.plans["secret"]), nowhere)
    extreme = {name: DataSource(path=str(world.data["extreme"])) for name in NAMES}
    other = found_federation(
        tmp_path / "other", run_plan(world.plans["public"]), extreme
    )
    here = world.founded["public"]
    for one, two in (
        (here, other),
        (here.silos[VICTIM].card, other.silos[VICTIM].card),
    ):
        charter = isinstance(one, LocalFederation)
        a, b = (x.charter if charter else x for x in (one, two))
        assert without_keys(a.model_dump()) == without_keys(b.model_dump())
    assert other.initial.digest() == here.initial.digest()


KEYS = {"identity", "issuer_certificate", "signature", "tls"}


def without_keys(value: Any) -> Any:
    """A document without what is drawn for each party."""
    if isinstance(value, dict):
        return {k: without_keys(v) for k, v in value.items() if k not in KEYS}
    if isinstance(value, list | tuple):
        return [without_keys(part) for part in value]
    return value


def test_what_follows_tuning_leaves_at_the_charters_slots_only(usual: Seen) -> None:
    """The intent when the records are loaded, the committed update, and Ready."""
    began, late = 0.0, []
    known: set[bytes] = set()
    for p in usual.passed:
        if p.silo != VICTIM:
            continue
        if isinstance(p.frame, f.Phase) and p.frame.name == "tuning":
            began = p.seconds
        fresh = isinstance(p.frame, f.LedgerEntries) and any(
            json.loads(entry)["kind"] in ("intent", "committed")
            for entry in set(p.frame.entries) - known
        )
        if fresh:
            known.update(p.frame.entries)
        if fresh or isinstance(p.frame, f.Ready):
            late.append((p.seconds - began) / SLOT)
    # A silo that comes back with its update in hand is ready at once.
    again = [slots for slots in late if abs(slots - round(slots)) > 1e-4]
    assert len(again) == sum(end == (VICTIM, "killed") for end in usual.ended) - 1
    assert len(late) >= 9


def test_a_link_that_is_cut_while_tuning_shows_no_more(world: World) -> None:
    """A silo that comes back says where its ledger stands: on these records its tuning
    has ended by then, on those it hasn't."""
    cut, seen = SLOT + 3, []
    for data in ("usual", "extreme"):
        seen.append(world.watch(f"cut {data}", data, "short", cut=cut))
        hellos = [p for p in seen[-1].passed if isinstance(p.frame, f.Hello)]
        assert [p.silo for p in hellos].count(VICTIM) == 2
    ends = [SLOT + seconds_of(str(world.data[x]))[1] for x in ("usual", "extreme")]
    assert ends[0] < cut < ends[1] < 2 * SLOT
    assert differences(*seen, INDEX, ideal=True) == []


class Breaks:
    """Tuning that fails, in one way or another; what is tried beforehand passes."""

    def __init__(self, failure: Exception) -> None:
        self._failure, self._tried = failure, False

    def __call__(self, *_: Any) -> None:
        if self._tried:
            raise self._failure
        self._tried = True


def test_neither_how_nor_when_tuning_fails_leaves(world: World) -> None:
    """The silo's own log says it; the aggregator isn't told."""
    seen = []
    for data, failure in (
        ("usual", TuningFailed("a single record doesn't fit into memory")),
        ("extreme", TuningFailed("a tuning step failed (KeyError)")),
    ):
        broken = {"fedit_secure.tuning.dp_step.BatchGradient.sum": Breaks(failure)}
        seen.append(world.watch(f"broken {data}", data, "short", patches=broken))
        refusals = [p.frame for p in seen[-1].passed if isinstance(p.frame, f.Refused)]
        assert refusals == [f.Refused(1, "its tuning failed")]
        assert any(who == VICTIM and str(failure) in x for who, x in seen[-1].logged)
        seen[-1].logged = [(who, x) for who, x in seen[-1].logged if who != VICTIM]
    assert differences(*seen, INDEX, ideal=True) == []


# ------------------------------------------------------------------------------ the tables


def nested(field: Any) -> Record | None:
    """The record in a field of the codec, if there is one."""
    inner = field
    while inner is not None and not isinstance(inner, Record):
        inner = next(
            (
                value
                for name in getattr(inner, "__dataclass_fields__", {})
                if dataclasses.is_dataclass(value := getattr(inner, name))
            ),
            None,
        )
    return inner


def test_every_field_of_every_message_is_in_the_table() -> None:
    """A new message, field or kind of ledger entry has to say what it depends on."""
    seen: set[type] = {Fetch, m.MaskedUpload}

    def look(record: Record) -> None:
        if record.of in seen:
            return
        seen.add(record.of)
        plain = {name for name, field in record.fields.items() if nested(field) is None}
        if record.of is f.LedgerEntries:
            plain.remove("entries")  # each by its own kind
        assert set(FIELDS[record.of]) == plain, record.of.__name__
        for field in record.fields.values():
            if (inner := nested(field)) is not None:
                look(inner)

    for record in (*BODIES.values(), UPLOAD_HEADER):
        look(record)
    assert set(FIELDS[m.MaskedUpload]) | {"header"} == set(names_of(m.MaskedUpload))
    for kind in typing.get_args(events.Event):
        seen.add(kind)
        assert set(FIELDS[kind]) == set(names_of(kind)), kind.__name__
    assert seen == set(FIELDS)
    assert (f.FROM_SILO | f.FROM_AGGREGATOR) - {m.PublishedSum} <= seen


def test_every_field_of_a_silos_status_is_in_the_table(usual: Seen) -> None:
    status = json.loads(usual.status)
    assert status["rounds"]
    assert {name for name, _ in status_fields(status)} == set(status_classes())
    assert status["daemon"]["state"] == "ended"
    assert [cap["spent"] > 0 for cap in status["caps"]] == [True]


def test_what_is_in_no_table_is_noticed() -> None:
    @dataclass
    class Loss:
        value: float

    with pytest.raises(AssertionError, match="Loss is in no table"):
        list(leaves(Loss(1.5), INDEX))
    # A field that the table doesn't have, of a message that it has.
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(FIELDS[f.Ready], "round")
        with pytest.raises(AssertionError, match="int is in no table"):
            list(leaves(f.Ready(1), INDEX))
    assert class_of("losses.jsonl") is None
    assert class_of("rounds/001/losses.json") is None
