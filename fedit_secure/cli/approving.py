"""What `fedit charter approve` checks, shows and signs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedit_secure.cli.caps_table import caps_table
from fedit_secure.cli.charter_facts import evaluation_words
from fedit_secure.cli.standing import account_of, identity_of
from fedit_secure.config import SiloConfig, load_policy, passphrase_of
from fedit_secure.errors import (
    ConfigError,
    MalformedMessage,
    PolicyRefusal,
    StorageError,
)
from fedit_secure.federation.admission import Admitted, admit
from fedit_secure.federation.approval import approve, check_epoch, remember
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.durable import make_folder, read_file, write_durably
from fedit_secure.federation.identity import Identity
from fedit_secure.federation.policy import Policy, check_delta
from fedit_secure.federation.rotation import identity_under
from fedit_secure.federation.update import GridState, with_moments
from fedit_secure.privacy.ledger import Ledger, Released
from fedit_secure.silo.fingerprints import Prints
from fedit_secure.silo.ledger_opening import require_open_charter
from fedit_secure.silo.overlaps import require_inherited
from fedit_secure.storage.journal import Journal
from fedit_secure.tuning.job import DataSource
from fedit_secure.tuning.records import Record, load_records
from fedit_secure.tuning.units import (
    count_units,
    held_out_units,
    persons_of,
    require_held_out,
    require_persons,
)


@dataclass(frozen=True, slots=True)
class Checked:
    """A charter that this silo may approve, and the facts for its operator.

    `caps`: what it does to each cap, a row each; none without DP. `person_sizes`: of how
    many records to state what a person costs beside the claim of a charter per record; the
    most that one has here, where the data names persons.
    """

    charter: Charter
    identity: Identity
    facts: dict[str, Any]
    caps: list[dict[str, Any]]
    person_sizes: tuple[int, ...]


def check_charter(config: SiloConfig) -> Checked:
    """Holds the charter against this silo's card, epochs, data, policy and budget.

    Raises ConfigError, PolicyRefusal or BudgetExhausted; nothing is written.
    """
    identity_of(config)  # that is the silo's own, whichever the charter pins
    charter = Charter.load(config.charter)
    policy = load_policy(config.policy)
    charter.check_date(datetime.now(UTC).date())
    identity = identity_under(charter, config.identity, passphrase_of(config))
    check_epoch(config.state, charter)
    source = DataSource.model_validate(config.data.model_dump())
    require_persons(source.columns, charter.dp.unit)
    records = load_records(source)
    units = count_units(records, charter.dp.unit)
    told = charter.row(config.name).units
    if told not in (None, units):
        raise PolicyRefusal(
            f"the charter gives this silo {told} {charter.counted}, and its data has "
            f"{units}"
        )
    check_delta(charter, units)
    require_expected(charter, config.name, records, source.held_out is not None)
    account = account_of(config, charter.row(config.name).population)
    prints = Prints.of(records, identity.signing)
    _check_journal(config, charter, account.ledger, prints)
    admitted = admit(charter, config.name, account)
    facts = _facts(charter, admitted, policy) | _unit_facts(charter, records)
    facts["starts_from"] = _start(config, charter, account.ledger)
    most = max(len(own) for own in persons_of(records))
    named = source.columns.person is not None
    sizes = (most,) if named and most > 1 else (2, 4)
    return Checked(charter, identity, facts, caps_table(admitted.caps), sizes)


def require_expected(
    charter: Charter, name: str, records: Sequence[Record], holds_out: bool
) -> None:
    """Raises ConfigError for a silo that holds nothing out and is to be evaluated, and
    PolicyRefusal where it tells its sizes and holds out another number than the charter
    says: all figures would be off by the quotient.
    """
    evaluation = charter.plan_for(name).evaluation
    require_held_out(holds_out, evaluation)
    if evaluation is None or charter.dp.sizes == "secret":
        return
    here = held_out_units(records, charter.dp.unit)
    if here != evaluation.expected:
        raise PolicyRefusal(
            f"the charter expects {evaluation.expected} held-out {charter.counted} of this "
            f"silo, and its data has {here}"
        )


def _check_journal(
    config: SiloConfig, charter: Charter, ledger: Ledger | None, prints: Prints
) -> None:
    """What the daemon would refuse at its start, refused before anything is signed."""
    path = config.state / "journal.sqlite"
    if path.exists():
        population = charter.row(config.name).population
        with Journal.open(path, read_only=True) as journal:
            require_open_charter(journal, charter)
            require_inherited(journal, population, ledger, prints)


def sign_charter(config: SiloConfig, checked: Checked) -> Path:
    """Records the epoch durably, then signs; returns where the approval was written.

    Raises StorageError, and PolicyRefusal if another epoch was approved meanwhile.
    """
    try:
        make_folder(config.state, 0o700)
    except StorageError as error:
        raise ConfigError(f"the state folder {error}") from error
    remember(config.state, checked.charter)
    approval = approve(checked.charter, config.name, checked.identity.signing)
    write_durably(config.approval, approval.to_bytes())
    return config.approval


def _unit_facts(charter: Charter, records: Sequence[Record]) -> dict[str, Any]:
    """What the charter protects here; for persons also what its cap leaves out."""
    unit = charter.dp.unit
    facts: dict[str, Any] = {"unit": unit, "records": len(records)}
    if apart := held_out_units(records, unit):
        facts[f"held_out_{charter.counted}"] = apart
    cap = charter.dp.records_per_person
    if cap is not None:
        persons = persons_of(records)
        facts |= {
            "persons": len(persons),
            "records_per_person_at_most": cap,
            "persons_over_it": sum(len(own) > cap for own in persons),
        }
    return facts


def _start(config: SiloConfig, charter: Charter, ledger: Ledger | None) -> str:
    """Where the adapter starts, as far as this silo's own ledger can tell."""
    if charter.predecessor is None:
        return "an adapter that no round has changed"
    known = [
        event
        for event in (() if ledger is None else ledger.events)
        if isinstance(event, Released) and event.charter == charter.predecessor
    ]
    before = f"epoch {charter.epoch - 1}"
    if not known:
        return f"a state unknown here: this silo has no round of {before}"
    last = known[-1]
    if charter.adapter.initial_digest in _begun_with(config, charter, last):
        return (
            f"the state after round {last.round} of {before}, the last one known here"
        )
    return (
        f"ANOTHER state than that after round {last.round} of {before}, the last one known "
        "here: ask the coordinator which"
    )


def _begun_with(config: SiloConfig, charter: Charter, last: Released) -> set[str]:
    """The names of the states that go on from a round's: its own, and that with the
    optimizer's moments begun anew, where the state is here.
    """
    path = config.state / "states" / f"{last.state_digest}.state"
    found = {last.state_digest}
    if path.is_file():
        try:
            state = GridState.from_bytes(read_file(path, "state"))
        except MalformedMessage as wrong:
            raise StorageError(f"{path} is damaged: {wrong}") from wrong
        found.add(with_moments(state, charter.update_rule).digest().hex())
    return found


def _facts(charter: Charter, admitted: Admitted, policy: Policy) -> dict[str, Any]:
    private = admitted.delta is not None
    return {
        "federation": charter.federation,
        "epoch": charter.epoch,
        "run": charter.run,
        "expires": charter.expires,
        "silos": [row.name for row in charter.roster],
        "base_model": charter.base_model.name,
        "rounds": charter.rounds,
        "privacy": charter.dp.kind if private else "NONE: nothing bounds what leaks",
        "delta": admitted.delta,
        "run_costs_epsilon": admitted.run if private else None,
        "spent_epsilon": admitted.spent if private else None,
        "after_the_run_epsilon": admitted.after if private else None,
        "policy_epsilon": policy.epsilon,
        "evaluation": evaluation_words(charter),
        "digest": charter.digest().hex(),
        "words": " ".join(charter.words()),
    }
