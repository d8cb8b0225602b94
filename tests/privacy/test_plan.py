"""One plan object: what is trained with is what is accounted."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, replace

import dp_accounting as dpa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedit_secure.privacy.plan import DpPlan

PLAN = DpPlan(
    sample_rate=0.05,
    noise_multiplier=1.224,
    clip=0.7,
    expected_batch=64,
    local_steps=10,
    rounds=29,
    spare_charges=1,
    delta=1e-5,
)


def test_the_step_and_the_event_come_from_the_same_figures() -> None:
    arguments = PLAN.step_arguments()
    assert asdict(arguments) == {
        "sample_rate": 0.05,
        "noise_multiplier": 1.224,
        "clip": 0.7,
        "expected_batch": 64,
        "steps": 10,
    }
    step = dpa.PoissonSampledDpEvent(
        arguments.sample_rate, dpa.GaussianDpEvent(arguments.noise_multiplier)
    )
    assert PLAN.round_event() == dpa.SelfComposedDpEvent(step, arguments.steps)
    assert PLAN.run_event() == dpa.SelfComposedDpEvent(step, 300)
    assert PLAN.run_event(spares=0) == dpa.SelfComposedDpEvent(step, 290)
    assert PLAN.charges == 30


def test_every_record_in_every_batch_is_not_called_sampled() -> None:
    plan = replace(PLAN, sample_rate=1.0)
    assert plan.round_event() == dpa.SelfComposedDpEvent(dpa.GaussianDpEvent(1.224), 10)


def test_without_dp_there_is_no_clip_no_noise_and_no_privacy() -> None:
    plan = replace(PLAN, kind="none", noise_multiplier=0.0, delta=None)
    assert plan.round_event() == dpa.NonPrivateDpEvent()
    assert plan.run_event() == dpa.NonPrivateDpEvent()
    assert plan.step_arguments().clip is None


def test_sizes_choose_the_neighbours() -> None:
    relations = dpa.NeighboringRelation
    assert PLAN.neighbouring_relation == relations.REPLACE_SPECIAL
    secret = replace(PLAN, sizes="secret")
    assert secret.neighbouring_relation == relations.ADD_OR_REMOVE_ONE


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "central"),
        ("unit", "patient"),
        ("records_per_person", 16),
        ("sizes", "hidden"),
        ("sample_rate", 0.0),
        ("sample_rate", 1.5),
        ("sample_rate", float("nan")),
        ("noise_multiplier", 0.0),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", float("inf")),
        ("noise_multiplier", "1"),
        ("clip", 0.0),
        ("clip", True),
        ("expected_batch", 0),
        ("expected_batch", 64.0),
        ("expected_batch", True),
        ("local_steps", 0),
        ("rounds", 0),
        ("rounds", 2**60),
        ("spare_charges", -1),
        ("delta", 0.0),
        ("delta", 1.0),
        ("delta", None),
        ("target_epsilon", 0.0),
    ],
)
def test_an_unusable_figure_is_refused_by_its_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        DpPlan.from_dict({**PLAN.as_dict(), field: value})


@pytest.mark.parametrize("cap", [None, 0, -1, 2.0, True])
def test_a_plan_per_person_needs_a_cap_of_records(cap: object) -> None:
    with pytest.raises(ValueError, match="records_per_person"):
        DpPlan.from_dict(
            {**PLAN.as_dict(), "unit": "person", "records_per_person": cap}
        )


def test_the_unit_and_its_cap_survive_a_journey() -> None:
    plan = replace(PLAN, unit="person", records_per_person=16)
    assert DpPlan.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan
    document = plan.as_dict()
    del document["records_per_person"]
    with pytest.raises(ValueError, match="lacks the field 'records_per_person'"):
        DpPlan.from_dict(document)


def test_the_cap_changes_neither_the_step_nor_the_event() -> None:
    few, many = (replace(PLAN, unit="person", records_per_person=k) for k in (1, 1000))
    assert few.step_arguments() == many.step_arguments() == PLAN.step_arguments()
    assert few.run_event() == many.run_event() == PLAN.run_event()


def test_a_plan_without_dp_may_not_look_like_one_with_it() -> None:
    for change in ({}, {"noise_multiplier": 0.0, "target_epsilon": 8.0}):
        with pytest.raises(ValueError, match="kind 'none'"):
            replace(PLAN, kind="none", **change)


def test_the_plan_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        PLAN.noise_multiplier = 0.1  # type: ignore[misc]


@pytest.mark.parametrize("change", [{"extra": 1}, {"clip": ...}])
def test_a_document_has_exactly_the_plans_fields(change: dict[str, object]) -> None:
    document = {**PLAN.as_dict(), **change}
    document = {k: v for k, v in document.items() if v is not ...}
    with pytest.raises(ValueError, match=next(iter(change))):
        DpPlan.from_dict(document)


@settings(max_examples=100, deadline=None)
@given(
    q=st.floats(1e-9, 1.0),
    sigma=st.floats(1e-3, 1e6),
    clip=st.one_of(st.floats(1e-6, 1e6), st.integers(1, 10)),
    counts=st.tuples(*[st.integers(1, 10**6)] * 3),
    spares=st.integers(0, 100),
    delta=st.floats(1e-12, 0.5),
    target=st.one_of(st.none(), st.floats(0.01, 100)),
    sizes=st.sampled_from(["public", "secret"]),
)
def test_json_brings_the_same_plan_back(
    q: float,
    sigma: float,
    clip: float,
    counts: tuple[int, int, int],
    spares: int,
    delta: float,
    target: float | None,
    sizes: str,
) -> None:
    plan = DpPlan(
        sample_rate=q,
        noise_multiplier=sigma,
        clip=clip,
        expected_batch=counts[0],
        local_steps=counts[1],
        rounds=counts[2],
        spare_charges=spares,
        delta=delta,
        target_epsilon=target,
        sizes=sizes,  # type: ignore[arg-type]
    )
    text = json.dumps(plan.as_dict(), allow_nan=False)
    assert DpPlan.from_dict(json.loads(text)) == plan
    assert json.dumps(DpPlan.from_dict(json.loads(text)).as_dict()) == text


def test_importing_a_plan_imports_no_accountant() -> None:
    # `fedit --help` reads charters' types, and must not wait for scipy.
    code = "import sys, fedit_secure.privacy.plan; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    loaded = set(run.stdout.split())
    assert not loaded & {"numpy", "scipy", "dp_accounting", "torch", "pydantic"}
