"""A simulation's folder: founded at its first start, and found again after a kill.

All parties of a run keep on disk what they need to go on. So a simulation that was killed
goes on with the round after the last certified one, with the same keys and ledgers; what
a silo had tuned by then isn't tuned again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedit_secure.config import PlanFile
from fedit_secure.errors import ConfigError
from fedit_secure.federation.approval import load_approvals
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.durable import read_file, write_durably
from fedit_secure.federation.identity import load_identity
from fedit_secure.federation.update import GridState
from fedit_secure.simulation.own_rule import OwnRule, RuledCharter
from fedit_secure.simulation.parties import (
    LocalFederation,
    found_federation,
    policy_for,
)
from fedit_secure.tuning.base_model import check_digest, resolve_base_model
from fedit_secure.tuning.job import DataSource
from fedit_secure.tuning.records import load_records, record_bytes

MARK = "simulation.json"
"""What a simulation was begun with; written last, when its folder is whole."""


def open_simulation(
    folder: Path,
    plan: PlanFile,
    data: Mapping[str, DataSource],
    *,
    rule: OwnRule | None = None,
    threads: int = 1,
    token_budget: int,
) -> LocalFederation:
    """Found the federation in `folder`, or open the one that was founded there.

    Raises ConfigError if the folder holds something else, or a simulation of another
    plan, of other records or with another server rule.
    """
    begun = _begun_with(plan, data, rule)
    if (folder / MARK).exists():
        _require_same(folder / MARK, begun)
        return _reopened(folder, plan, data, rule)
    federation = found_federation(
        folder, plan, data, rule=rule, threads=threads, token_budget=token_budget
    )
    text = json.dumps(begun, indent=2, sort_keys=True) + "\n"
    write_durably(folder / MARK, text.encode())
    return federation


def _begun_with(
    plan: PlanFile, data: Mapping[str, DataSource], rule: OwnRule | None
) -> dict[str, Any]:
    # A day later, the plan's expiry is another by default.
    planned = plan.model_dump(mode="json", exclude={"expires"})
    return {
        "server rule": None if rule is None else rule.name,
        "plan": planned,
        "data": {name: _records_digest(source) for name, source in data.items()},
    }


def _records_digest(source: DataSource) -> str:
    digest = hashlib.sha256()
    for record in load_records(source):
        digest.update(record_bytes(record) + b"\n")
    return digest.hexdigest()


def _require_same(mark: Path, begun: Mapping[str, Any]) -> None:
    try:
        before = json.loads(read_file(mark, "simulation"))
    except ValueError:
        raise ConfigError(f"{mark} is damaged: start in another folder") from None
    for part in begun:
        was, now = before.get(part), begun[part]
        if was == now:
            continue
        what = part
        if isinstance(was, dict) and isinstance(now, dict):
            keys = sorted(was.keys() | now.keys())
            differs = next(key for key in keys if was.get(key) != now.get(key))
            what = f"{part}, in {differs!r}"
        raise ConfigError(
            f"{mark.parent} holds a simulation with another {what}: give that one again to "
            "go on with it, or another folder to begin anew"
        )


def _reopened(
    folder: Path, plan: PlanFile, data: Mapping[str, DataSource], rule: OwnRule | None
) -> LocalFederation:
    charter = Charter.load(folder / "charter.json")
    base_model = resolve_base_model(plan.base_model)
    check_digest(base_model, charter.base_model.digest)
    state = folder / "initial-state.bin"
    return LocalFederation(
        folder,
        charter if rule is None else RuledCharter.of(charter, rule),
        load_approvals([folder / "approvals"]),
        {name: load_identity(folder / name / "identity") for name in data},
        load_identity(folder / "aggregator" / "identity"),
        GridState.from_bytes(read_file(state, "initial state")),
        base_model,
        dict(data),
        policy_for(plan),
    )
