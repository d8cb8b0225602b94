"""What is held out leaves by one number a round, noised, masked, and in the sum."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

import numpy as np
import pytest
from attacks.differences import differences
from attacks.seen import VICTIM, Seen
from attacks.whole_run import Kill
from attacks.worlds import INDEX, World

from fedit_secure.federation.readings import full_coordinate, reading_of
from fedit_secure.privacy.evaluation import EvaluationPlan
from fedit_secure.secagg import messages as m
from fedit_secure.tuning import held_out
from fedit_secure.wire.codec import PublishedNotice

# Two silos die once they have masked: round 1's first attempt is voided and renewed.
KILLS = (Kill(VICTIM, m.Agreement, 1), Kill("west", m.Agreement, 1))


@pytest.fixture(scope="module")
def seen(world: World) -> dict[str, Seen]:
    """Two runs. In the second the held-out records are long, empty, or have no loss."""
    return {
        data: world.watch(data, data, "evaluated", kills=KILLS)
        for data in ("usual", "extreme")
    }


def own_figures(seen: Seen) -> list[dict[str, float]]:
    """What the victim's worker told its daemon, round by round."""
    said = [json.loads(line) for who, line in seen.workers if who == VICTIM]
    return [line for line in said if line["phase"] == "evaluated"]


def without_figures(seen: Seen) -> list[dict[str, float]]:
    """The lines about evaluations, taken out of the aggregator's metrics."""
    lines = seen.files["metrics.jsonl"].splitlines(keepends=True)
    about = [line for line in lines if json.loads(line)["phase"] == "evaluation"]
    seen.files["metrics.jsonl"] = b"".join(x for x in lines if x not in about)
    return [json.loads(line) for line in about]


def test_other_held_out_records_change_the_masked_update_alone(
    world: World, seen: dict[str, Seen]
) -> None:
    charter = world.founded["evaluated"].charter
    for run in seen.values():
        notices = [p.frame for p in run.passed if isinstance(p.frame, PublishedNotice)]
        assert {notice.contributors for notice in notices} == {(0, 1, 2, 3)}
        # What the aggregator keeps of it is what anybody reads in the sum.
        for line in without_figures(run):
            total = run.files[f"rounds/{line['round']:03d}/sum.int32"]
            read = reading_of(charter, int(np.frombuffer(total, "<i4")[-1]), range(4))
            assert read is not None
            assert (line["nll"], line["deviation"]) == (read.nll, read.deviation)
    assert differences(seen["usual"], seen["extreme"], INDEX, ideal=True) == []
    # It isn't because nothing had changed: the silo's own figures are others.
    one, two = (own_figures(run) for run in seen.values())
    assert len(one) == len(two) == 2
    assert one[0]["units"] != two[0]["units"]
    assert one[0]["nll"] != two[0]["nll"]


def test_a_voided_attempt_sends_the_same_noised_figure_again(
    world: World, seen: dict[str, Seen]
) -> None:
    """Fresh noise would be a second look at the same records, for one charge."""
    for run in seen.values():
        figures = [int(values[-1]) for _, values in run.uploads]
        assert len(figures) == 3  # twice in round 1, once in round 2
        # The restarted silo rounds anew, and nothing more.
        assert abs(figures[0] - figures[1]) <= 1
        assert abs(figures[0] - figures[2]) > 1000
        entries = run.files[f"ledgers/{VICTIM}.jsonl"].splitlines()
        charged = [json.loads(x) for x in entries if b'"intent"' in x]
        assert [x["round"] for x in charged] == [1, 2]
        assert charged[0]["evaluation"] == charged[1]["evaluation"]


def forms(value: float) -> Iterator[bytes]:
    """How a figure could be written: digits, and bits."""
    for digits in (4, 6, 9):
        yield f"{value:.{digits}g}".encode()
    for pattern in ("<f", ">f", "<d", ">d"):
        yield struct.pack(pattern, value)


def test_the_silos_own_figure_is_nowhere_but_in_the_silo(
    world: World, seen: dict[str, Seen]
) -> None:
    run = seen["usual"]
    left = [p.raw for p in run.passed] + list(run.files.values())
    told = b"\n".join(left) + repr((run.logged, run.printed)).encode()
    for figure in own_figures(run):
        for form in forms(figure["nll"]):
            assert form not in told
    # Its operator has it: on the page, and in the state folder.
    shown = [ended["own_nll"] for ended in json.loads(run.status)["rounds"]]
    assert shown == [figure["nll"] for figure in own_figures(run)]
    kept = world.folder / "evaluated-usual" / VICTIM / "state" / "evaluations.jsonl"
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [line["own"]["nll"] for line in lines if "own" in line] == shown
    read = [line["federation"]["nll"] for line in lines if "federation" in line]
    assert read == [ended["nll"] for ended in json.loads(run.status)["rounds"]]


def test_without_its_noise_the_coordinate_would_be_the_silos_own_figure(
    world: World, seen: dict[str, Seen]
) -> None:
    """The control: the integer under the mask is read, and the noise is what hides it."""

    def bare(nlls: np.ndarray, plan: EvaluationPlan, key: bytes) -> np.float32:
        return np.float32(held_out.clipped_sum(nlls, plan) / plan.expected)

    broken = {"fedit_secure.tuning.held_out.released_figure": bare}
    run = world.watch("bare", "usual", "evaluated", patches=broken)
    charter = world.founded["evaluated"].charter
    plan = charter.plan_for(VICTIM).evaluation
    assert plan is not None
    step = full_coordinate(charter) / charter.secagg_params().magnitude
    (told, again), (hidden, _, later) = (
        [values[-1] * step + plan.middle for _, values in each.uploads]
        for each in (run, seen["usual"])
    )
    own = own_figures(run)
    assert own[0]["units"] == plan.expected
    assert (told, again) == pytest.approx([o["nll"] for o in own], abs=1e-3)
    assert abs(hidden - told) > 0.01
    assert abs(later - again) > 0.01
