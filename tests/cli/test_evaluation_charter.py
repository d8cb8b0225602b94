"""A charter that evaluates, as operators meet it: told in words, approved, refused."""

from __future__ import annotations

import json

import pytest

from fedit_secure.federation.charter import Charter
from fedit_secure.tuning.job import DataSource, HeldOutSource
from fedit_secure.tuning.records import load_records

CLIP, NOISE = 10.0, 40.0


def held_out(silo) -> int:
    held_out = HeldOutSource(fraction=0.25)
    source = DataSource(path=str(silo / "records.jsonl"), held_out=held_out)
    return sum(record.held_out for record in load_records(source))


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.fixture
def silo(federation):
    """A silo that holds out a quarter, and a charter that evaluates the silo alone."""
    folder = federation / "clinic-a"
    edit(folder / "silo.yaml", "data:\n", "data:\n  held_out: {fraction: 0.25}\n")
    edit(folder / "policy.yaml", "allow_evaluation: false", "allow_evaluation: true")
    charter_of(federation, held_out(folder))
    return folder


def charter_of(federation, expected: int) -> Charter:
    """The drafted charter with an evaluation. Its noise suffices for epsilon 8.1."""
    path = federation / "charter.json"
    document = json.loads(path.read_bytes())
    document["evaluation"] = {"clip": CLIP, "noise_multiplier": NOISE}
    document["roster"][0]["held_out"] = expected
    document["dp"]["epsilon"] = 8.1
    charter = Charter.model_validate(document)
    path.write_bytes(charter.to_bytes())
    policy = federation / "clinic-a" / "policy.yaml"
    policy.write_text(policy.read_text().replace("epsilon: 8 ", "epsilon: 9 "))
    return charter


def approve(fedit, silo):
    return fedit("charter", "approve", silo / "silo.yaml", "--yes", "--format", "json")


def test_show_says_what_is_released_and_what_it_costs(fedit, silo) -> None:
    path = silo.parent / "charter.json"
    shown = fedit("charter", "show", path, "--format", "json").json
    said = shown["evaluation"]
    assert "mean response NLL of 1 silos' held-out records" in said
    assert "clipped to 10 nats" in said
    deviation = NOISE * CLIP / 2 / held_out(silo)
    assert f"standard deviation {deviation:.3g} nats" in said
    assert "epsilon counts it, which by itself would be 0." in said
    costs = {row["silo"]: row["epsilon"] for row in shown["roster"]}
    assert costs["clinic-a"] > costs["clinic-b"]
    assert [row["held_out"] for row in shown["roster"]][1:] == [None] * 3


def test_approve_counts_what_is_held_out(fedit, silo) -> None:
    approved = approve(fedit, silo)
    assert approved.status == 0, approved.err
    facts = approved.json
    assert facts["held_out_records"] == held_out(silo)
    assert facts["run_costs_epsilon"] > 8.0 - 0.1
    assert "epsilon counts it" in facts["evaluation"]
    edit(silo / "silo.yaml", "model: model", f"model: {silo.parent / 'base'}")
    checked = fedit("data", "check", silo / "silo.yaml", "--format", "json").json
    assert checked["held_out_records"] == held_out(silo)
    assert checked["held_out_persons"] is None


def test_another_number_is_refused_before_anything_is_signed(fedit, silo) -> None:
    charter_of(silo.parent, held_out(silo) + 1)
    result = approve(fedit, silo)
    assert result.status == 6
    assert (
        f"expects {held_out(silo) + 1} held-out records of this silo, and its data has "
        f"{held_out(silo)}" in result.err
    )


@pytest.mark.parametrize(
    ("file", "old", "status", "why"),
    [
        ("policy.yaml", "allow_evaluation: true", 6, "doesn't set allow_evaluation"),
        (
            "silo.yaml",
            "  held_out: {fraction: 0.25}\n",
            4,
            "'data.held_out' doesn't say",
        ),
    ],
)
def test_a_silo_that_doesnt_offer_it_refuses(
    fedit, silo, file: str, old: str, status: int, why: str
) -> None:
    edit(silo / file, old, "")
    result = approve(fedit, silo)
    assert result.status == status
    assert why in result.err


def test_a_base_that_is_split_over_processes_holds_nothing_out(fedit, silo) -> None:
    with (silo / "silo.yaml").open("a") as file:
        file.write("\ntorchrun: {processes: 2, shard: true}\n")
    result = approve(fedit, silo)
    assert result.status == 4
    assert "torchrun.shard goes without data.held_out" in result.err
