"""Nothing of a silo's own B leaves it (aggregation "fedsa"): not a value, not a digest.

As in `test_what_leaves_a_silo`: a whole federation under the same chance and clock, with
other records in one silo.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from attacks.differences import differences
from attacks.seen import VICTIM, Seen
from attacks.whole_run import Kill
from attacks.worlds import INDEX, World
from safetensors.numpy import load_file

from fedit_secure.config import load_silo_config
from fedit_secure.secagg import messages as m
from fedit_secure.silo.personal_file import file_digest
from fedit_secure.simulation.parties import found_federation
from fedit_secure.simulation.run import run_plan
from fedit_secure.storage.journal import Journal

# Round 1: the attempt is voided and renewed, with the victim's update and B of before.
KILLS = (Kill(VICTIM, m.Agreement, 1), Kill("west", m.Agreement, 1))
OF = "personal"


@pytest.fixture(scope="module")
def personal(world: World) -> World:
    plan = world.plans["public"]
    lora = {"rank": 2, "aggregation": "fedsa"}
    plan = {**plan, "lora": lora, "rounds": 2}
    sources = world.founded["public"].data
    world.founded[OF] = found_federation(
        world.folder / OF, run_plan(plan), sources, token_budget=128
    )
    return world


@pytest.fixture(scope="module")
def usual(personal: World) -> Seen:
    return personal.watch("first", "usual", of=OF, kills=KILLS)


def home(world: World, name: str) -> Path:
    return world.folder / f"{OF}-{name}" / VICTIM / "state"


def own_file(world: World, name: str) -> Path:
    (path,) = (home(world, name) / "personal" / "local").glob("*.safetensors")
    return path


def own_b(world: World, name: str) -> np.ndarray:
    tensors = load_file(own_file(world, name))
    return np.concatenate([tensors[key].reshape(-1) for key in sorted(tensors)])


def test_other_records_change_the_own_b_and_nothing_that_can_be_seen(
    personal: World, usual: Seen
) -> None:
    other = personal.watch("other", "extreme", of=OF, kills=KILLS)
    assert differences(usual, other, INDEX, ideal=True) == []
    assert len(usual.uploads) == len(other.uploads) == 3
    mine, others = own_b(personal, "first"), own_b(personal, "other")
    assert mine.shape == others.shape
    assert (mine != others).all()


def test_a_message_has_room_for_a_alone(personal: World, usual: Seen) -> None:
    charter = personal.founded[OF].charter
    sizes = {name: int(np.prod(shape)) for name, shape in charter.adapter.layout}
    of_a = sum(size for name, size in sizes.items() if ".lora_A." in name)
    for upload, encoded in usual.uploads:
        assert upload.header.length == len(upload.payload) == 3 * of_a + 8
        assert encoded.shape == (of_a,)
    assert own_b(personal, "first").size == sum(sizes.values()) - of_a


def patterns(world: World) -> Iterator[bytes]:
    """What would give the B away: its values as floats or on the grid, in any order of
    bytes, the changes, and what names the file."""
    values = own_b(world, "first")
    values = values[values != 0]
    assert values.size > 100
    exact = values.astype(np.float64)
    for form in ("<f4", ">f4", "<f8", ">f8"):
        yield from (value.tobytes() for value in exact.astype(form))
    grid = np.rint(exact * 2.0**24)
    large = np.abs(grid) > 2**16  # small integers occur anywhere
    assert large.any()
    for form in ("<i8", ">i8"):
        yield from (value.tobytes() for value in grid[large].astype(form))
    yield from (repr(float(value)).encode() for value in values)
    named = file_digest(own_file(world, "first").read_bytes())
    yield from (bytes.fromhex(named), named.encode(), named[:16].encode())


def test_no_value_and_no_digest_of_it_leaves(personal: World, usual: Seen) -> None:
    told = [p.raw for p in usual.passed] + list(usual.files.values())
    told += [usual.status, repr((usual.logged, usual.printed)).encode()]
    everything = b"\n".join(told)
    found = [piece for piece in patterns(personal) if piece in everything]
    assert found == []
    # The search finds what is there: in the silo's own adapter, which stays.
    adapter = home(personal, "first") / "personal/local/epoch-1/adapter"
    kept = (adapter / "adapter_model.safetensors").read_bytes()
    assert sum(piece in kept for piece in patterns(personal)) > 100


def test_the_journal_which_travels_in_part_has_the_files_name_alone(
    personal: World, usual: Seen
) -> None:
    assert usual.uploads
    path = home(personal, "first") / "journal.sqlite"
    data = path.read_bytes()
    found = {piece for piece in patterns(personal) if piece in data}
    assert {len(piece) for piece in found} <= {16, 64}
    with Journal.open(path, read_only=True) as journal:
        ledger = b"\n".join(journal.ledger(VICTIM))
    assert not any(piece in ledger for piece in patterns(personal))


def test_the_own_b_is_where_the_daemon_put_it_and_nowhere_else(
    personal: World, usual: Seen
) -> None:
    """Of all files of the federation: the B's own, the adapter, and the job's start."""
    assert usual.uploads
    pieces = [value.tobytes() for value in own_b(personal, "first") if value][:50]
    root = personal.folder / f"{OF}-first"
    state = load_silo_config(root / VICTIM / "silo.yaml").state
    holding = {
        path.relative_to(root)
        for path in root.rglob("*")
        if path.is_file() and all(piece in path.read_bytes() for piece in pieces)
    }
    assert {path.parts[0] for path in holding} == {VICTIM}
    below = {str((root / path).relative_to(state)) for path in holding}
    assert below == {
        f"personal/local/{own_file(personal, 'first').name}",
        "personal/local/epoch-1/adapter/adapter_model.safetensors",
    }
