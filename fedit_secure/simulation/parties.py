"""Found a federation whose parties all live on this machine.

It does what the coordinator and the operators do by hand (`fedit silo init`, `charter
draft`, `charter approve`), with the same functions, and leaves the same files: every
daemon of it can be started with `fedit silo serve` and `fedit aggregator serve`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from fedit_secure.config import PlanFile
from fedit_secure.errors import ConfigError
from fedit_secure.federation.approval import Approval, approve, remember
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.drafting import unit_of
from fedit_secure.federation.durable import write_durably
from fedit_secure.federation.identity import Identity, create_identity
from fedit_secure.federation.policy import Policy
from fedit_secure.federation.run_plan import PlannedSilo
from fedit_secure.federation.update import GridState
from fedit_secure.privacy.plan import COUNTED, Unit
from fedit_secure.simulation.own_rule import OwnRule, RuledCharter
from fedit_secure.tuning.base_model import resolve_base_model
from fedit_secure.tuning.job import DEFAULT_TOKEN_BUDGET, DataSource
from fedit_secure.tuning.records import load_records
from fedit_secure.tuning.run_start import draft_run
from fedit_secure.tuning.units import count_units, held_out_units


@dataclass(frozen=True, slots=True)
class LocalFederation:
    """Paths and contents of a founded federation; `folder` holds one folder a party."""

    folder: Path
    charter: Charter
    approvals: tuple[Approval, ...]
    silos: Mapping[str, Identity]
    aggregator: Identity
    initial: GridState
    base_model: Path
    data: Mapping[str, DataSource]
    policy: Policy

    def config_path(self, party: str) -> Path:
        """The YAML that `fedit silo serve` or `fedit aggregator serve` takes."""
        role = "aggregator" if party == self.aggregator.name else "silo"
        return self.folder / party / f"{role}.yaml"


def found_federation(
    folder: Path,
    plan: PlanFile,
    data: Mapping[str, DataSource],
    *,
    policy: Policy | None = None,
    rule: OwnRule | None = None,
    threads: int = 1,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
) -> LocalFederation:
    """Make identities, cards, charter, approvals and configurations under `folder`.

    `data` names the silos. The plan's unit is the person where every silo's columns name
    one, unless the plan says otherwise. `policy` is every silo's; by default it grants
    exactly what the plan asks for. With a `rule` of the user's own, the daemons can't run
    it. Raises ConfigError if the folder holds a federation already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} isn't empty")
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    base_model = resolve_base_model(plan.base_model)
    unit = unit_of(plan.dp, [s.columns.person is not None for s in data.values()])
    silos = {}
    for name, source in data.items():
        # The other unit's count isn't told: nobody needs it.
        told = {}
        if plan.dp.sizes == "public":
            told[COUNTED[unit]] = count_units(load_records(source), unit)
        silos[name] = create_identity(
            folder / name / "identity",
            name,
            "silo",
            "local",
            now=now,
            names_persons=source.columns.person is not None,
            **told,
        )
    aggregator = create_identity(
        folder / "aggregator" / "identity", "aggregator", "aggregator", "local", now=now
    )
    cards = [identity.card for identity in (*silos.values(), aggregator)]
    if plan.evaluation is not None and plan.dp.sizes == "public":
        plan = _with_held_out(plan, data, unit)
    charter, initial = draft_run(plan, cards, now.date(), rule=rule)
    granted = policy or policy_for(plan)
    approvals = []
    for name, identity in silos.items():
        state = folder / name / "state"
        state.mkdir(parents=True, exist_ok=True)
        remember(state, charter)
        approvals.append(approve(charter, name, identity.signing))
    federation = LocalFederation(
        folder,
        charter if rule is None else RuledCharter.of(charter, rule),
        tuple(approvals),
        silos,
        aggregator,
        initial,
        base_model,
        dict(data),
        granted,
    )
    _write_files(federation, plan, threads, token_budget)
    return federation


def _with_held_out(
    plan: PlanFile, data: Mapping[str, DataSource], unit: Unit
) -> PlanFile:
    """The plan, where it says no number, with what each silo holds out."""
    silos = dict(plan.silos)
    for name, source in data.items():
        told = silos.get(name, PlannedSilo())
        if source.held_out is not None and told.held_out is None:
            # A silo of which nothing is held out can't be expected to have less than one.
            count = max(1, held_out_units(load_records(source), unit))
            silos[name] = told.model_copy(update={"held_out": count})
    return plan.model_copy(update={"silos": silos})


def policy_for(plan: PlanFile) -> Policy:
    """What grants exactly what the plan asks for."""
    private = plan.dp.kind != "none"
    return Policy(
        epsilon=plan.dp.epsilon if private else None,
        delta=plan.dp.delta if private else None,
        allow_without_dp=not private,
        allow_pair=plan.secagg.allow_pair,
        tell_record_count=plan.dp.sizes == "public",
        allow_evaluation=plan.evaluation is not None,
    )


def _write_files(
    federation: LocalFederation, plan: PlanFile, threads: int, token_budget: int
) -> None:
    folder = federation.folder
    write_durably(folder / "charter.json", federation.charter.to_bytes())
    write_durably(folder / "initial-state.bin", federation.initial.to_bytes())
    (folder / "approvals").mkdir(exist_ok=True)
    for approval in federation.approvals:
        path = folder / "approvals" / f"{approval.name}.approval"
        write_durably(path, approval.to_bytes())
    policy = federation.policy.model_dump(mode="json")
    for name, source in federation.data.items():
        here = folder / name
        silo: dict[str, Any] = {
            "name": name,
            "identity": "identity",
            "state": "state",
            "charter": "../charter.json",
            "approval": f"../approvals/{name}.approval",
            "policy": "policy.yaml",
            "model": str(federation.base_model.resolve()),
            "data": source.model_dump(mode="json"),
            "threads": threads,
            "token_budget": token_budget,
        }
        _write_yaml(here / "silo.yaml", silo)
        _write_yaml(here / "policy.yaml", policy)
    _write_yaml(
        folder / "aggregator" / "aggregator.yaml",
        {
            "identity": "identity",
            "state": "state",
            "charter": "../charter.json",
            "approvals": "../approvals",
            "initial_state": "../initial-state.bin",
            "listen": plan.aggregator,
            "base_model": str(federation.base_model.resolve()),
        },
    )


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    write_durably(path, yaml.safe_dump(content, sort_keys=False).encode())
