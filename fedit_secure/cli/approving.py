"""What `fedit charter approve` checks, shows and signs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedit_secure.cli.standing import identity_of, ledger_of
from fedit_secure.config import SiloConfig, load_policy
from fedit_secure.errors import ConfigError, PolicyRefusal
from fedit_secure.federation.approval import approve, check_epoch, remember
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.durable import write_durably
from fedit_secure.federation.identity import Identity
from fedit_secure.federation.policy import Admitted, Policy, admit, check_delta
from fedit_secure.tuning.job import DataSource
from fedit_secure.tuning.records import load_records


@dataclass(frozen=True, slots=True)
class Checked:
    """A charter that this silo may approve, and the facts for its operator."""

    charter: Charter
    identity: Identity
    facts: dict[str, Any]


def check_charter(config: SiloConfig) -> Checked:
    """Holds the charter against this silo's card, epochs, data, policy and budget.

    Raises ConfigError, PolicyRefusal or BudgetExhausted; nothing is written.
    """
    identity = identity_of(config)
    charter = Charter.load(config.charter)
    policy = load_policy(config.policy)
    charter.check_date(datetime.now(UTC).date())
    charter.check_card(identity.card)
    check_epoch(config.state, charter)
    records = len(load_records(DataSource.model_validate(config.data.model_dump())))
    told = charter.row(config.name).records
    if told not in (None, records):
        raise PolicyRefusal(
            f"the charter gives this silo {told} records, and its data has {records}"
        )
    check_delta(charter, records)
    ledger = ledger_of(config, charter.row(config.name).population)
    admitted = admit(charter, config.name, policy, ledger)
    return Checked(charter, identity, _facts(charter, admitted, policy, records))


def sign_charter(config: SiloConfig, checked: Checked) -> Path:
    """Records the epoch durably, then signs; returns where the approval was written.

    Raises StorageError, and PolicyRefusal if another epoch was approved meanwhile.
    """
    try:
        config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(
            f"the state folder {config.state} can't be made: {error.strerror}"
        ) from error
    remember(config.state, checked.charter)
    approval = approve(checked.charter, config.name, checked.identity.signing)
    write_durably(config.approval, approval.to_bytes())
    return config.approval


def _facts(
    charter: Charter, admitted: Admitted, policy: Policy, records: int
) -> dict[str, Any]:
    private = admitted.delta is not None
    return {
        "federation": charter.federation,
        "epoch": charter.epoch,
        "run": charter.run,
        "expires": charter.expires,
        "silos": [row.name for row in charter.roster],
        "base_model": charter.base_model.name,
        "rounds": charter.rounds,
        "records": records,
        "privacy": charter.dp.kind if private else "NONE: nothing bounds what leaks",
        "delta": admitted.delta,
        "run_costs_epsilon": admitted.run if private else None,
        "spent_epsilon": admitted.spent if private else None,
        "after_the_run_epsilon": admitted.after if private else None,
        "policy_epsilon": policy.epsilon,
        "digest": charter.digest().hex(),
        "words": " ".join(charter.words()),
    }
