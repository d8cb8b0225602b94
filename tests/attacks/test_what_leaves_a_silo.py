"""Nothing that is derived from records leaves a silo but the noised update, masked.

A whole federation runs several times under the same chance and the same clock, and the
records of one silo differ as far as they can. Every message, time, size, log entry, event,
file and exit status is then the same, but for the fields that `what_may_leave.py` lists.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks.tiny_base import save_base
from attacks.what_may_leave import FIELDS, FILES, differences, leaves, names_of
from attacks.whole_run import VICTIM, Fetch, Kill, Passed, Seen, watch

from fedit_secure.federation.charter import Charter
from fedit_secure.privacy import events
from fedit_secure.secagg import fixed_point
from fedit_secure.secagg import messages as m
from fedit_secure.silo.books import Books
from fedit_secure.silo.daemon import SiloDaemon
from fedit_secure.silo.slots import Slots
from fedit_secure.simulation.parties import LocalFederation, found_federation
from fedit_secure.simulation.run import run_plan
from fedit_secure.tuning import dp_step, local_round
from fedit_secure.tuning.job import DataSource, Progress
from fedit_secure.wire import frames as f
from fedit_secure.wire.codec import BODIES, PublishedNotice

NAMES = ("east", "north", "south", "west")  # as in the roster
INDEX = NAMES.index(VICTIM)
RECORDS = 40
SLOT = 100.0  # seconds of a clock that jumps

# Round 1: two silos die once they have masked, the attempt is voided and renewed; in the
# next one the victim dies too early to be in the sum. Round 2: a silo dies in masking, and
# its mask key is recovered. Round 3: nothing.
KILLS = (
    Kill(VICTIM, m.Agreement, 1),
    Kill("west", m.Agreement, 1),
    Kill(VICTIM, m.ShareBundle, 2),
    Kill("south", m.MaskedUpload, 3),
)


@dataclass(frozen=True)
class World:
    """A founded federation, and the victim's records in several versions."""

    public: LocalFederation
    secret: LocalFederation
    data: dict[str, Path]
    folder: Path

    def watch(self, name: str, data: str, **options: Any) -> Seen:
        """One run on one version of the victim's records."""
        sizes = self.secret if options.pop("secret", False) else self.public
        return watch(sizes, self.data[data], self.folder / name, **options)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    base = folder / "base"
    words, overflowing = save_base(base)

    def write(name: str, rows: list[tuple[str, str]]) -> Path:
        lines = [json.dumps({"instruction": i, "response": r}) for i, r in rows]
        path = folder / f"{name}.jsonl"
        path.write_text("\n".join(lines) + "\n")
        return path

    usual = [
        (f"{words[i]} {words[3 * i % 99]}", words[7 * i % 99]) for i in range(RECORDS)
    ]
    long = " ".join(words * 9)
    strange = [(long, overflowing), (overflowing, "a"), ("{}", long)]
    data = {
        "usual": write("usual", usual),
        "zeroed": write("zeroed", [("a", "a")] * RECORDS),
        "extreme": write("extreme", [strange[i % 3] for i in range(RECORDS)]),
        "few": write("few", usual[:9]),
    }
    sources = {name: DataSource(path=str(write(name, usual))) for name in NAMES}
    dp = {"epsilon": 8.0, "delta": 1e-3, "clip": 1.0, "expected_batch": 10}
    plan = {
        "base_model": str(base),
        "max_tokens": 64,
        "lora": {"rank": 2},
        "tuning": {"learning_rate": 1e-3, "local_steps": 2},
        "rounds": 3,
        "dp": dp,
        "schedule": {
            "tune_deadline_seconds": 10000,
            "phase_deadline_seconds": 20,
            "silo_deadline_seconds": 60,
            "ready_slot_seconds": SLOT,
        },
    }
    hidden = {**plan, "dp": {**dp, "sizes": "secret", "sample_rate": 0.25}}
    return World(
        found_federation(folder / "public", run_plan(plan), sources),
        found_federation(folder / "secret", run_plan(hidden), sources),
        data,
        folder,
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
    entries = [json.loads(x)["kind"] for x in usual.files["ledgers/east.jsonl"].splitlines()]
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
    for (a, mine), (b, others) in zip(usual.uploads[:2], other.uploads[:2], strict=True):
        apart = mine.astype(np.int64) - others
        assert apart.any()
        assert ((in_the_ring(a) - in_the_ring(b) - apart) % 2**24 == 0).all()


def in_the_ring(upload: m.MaskedUpload) -> np.ndarray:
    """The masked coordinates of an upload, as they stand on the wire."""
    length = (len(upload.payload) - 8) // 3
    return fixed_point.unpack(upload.payload, length, 24).astype(np.int64)
