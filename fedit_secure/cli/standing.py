"""Where a silo or an aggregator stands, read from its folders without changing them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fedit_secure.cli.caps_table import figure
from fedit_secure.config import AggregatorConfig, SiloConfig, load_policy, passphrase_of
from fedit_secure.errors import ConfigError
from fedit_secure.federation.admission import Account
from fedit_secure.federation.approval import highest_approved, load_approvals
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.cohort import Cohorts
from fedit_secure.federation.identity import Identity, load_identity
from fedit_secure.privacy.ledger import Aborted, Intent, Ledger, Released
from fedit_secure.silo.account import account_in, ledger_in
from fedit_secure.silo.ledger_opening import missing_journal
from fedit_secure.storage.journal import Journal
from fedit_secure.storage.progress import Progress


def identity_of(config: SiloConfig) -> Identity:
    """The silo's identity; raises ConfigError if it is another party's."""
    identity = load_identity(config.identity, passphrase_of(config))
    if identity.card.role != "silo" or identity.name != config.name:
        raise ConfigError(
            f"the identity in {config.identity} is that of {identity.card.role} "
            f"{identity.name!r}, and the configuration's 'name' is {config.name!r}"
        )
    return identity


def ledger_of(config: SiloConfig, population: str) -> Ledger | None:
    """The population's ledger, None before its first charter; takes no lock.

    Raises as `account_of`, which needs the policy as well.
    """
    with _looked_at(config) as journal:
        return None if journal is None else ledger_in(journal, population)


def account_of(config: SiloConfig, population: str) -> Account:
    """The population's ledger, None before its first charter, and what it is held to.

    Takes no lock. Raises ConfigError for a bad identity or policy, StorageError if the
    journal is damaged, LedgerBehind if it is gone after it was there, LedgerCorrupt if its
    ledger is.
    """
    policy = load_policy(config.policy)
    with _looked_at(config) as journal:
        if journal is None:
            return Account(population, policy, None)
        return account_in(journal, population, policy)


@contextmanager
def _looked_at(config: SiloConfig) -> Iterator[Journal | None]:
    path = config.state / "journal.sqlite"
    if not path.exists():
        if path.with_name("journal.made").exists():
            raise missing_journal(path)
        yield None
        return
    with Journal.open(path, read_only=True) as journal:
        yield journal


def silo_facts(config: SiloConfig) -> dict[str, Any]:
    """Identity, charter and approval, rounds, budget. None: not there yet."""
    identity = identity_of(config)
    charter = Charter.load(config.charter) if config.charter.exists() else None
    facts: dict[str, Any] = {
        "name": identity.name,
        "identity": identity.card.identity,
        "card_expires": identity.card.expires,
        "federation": charter and charter.federation,
        "epoch": charter and charter.epoch,
        "approved": None,
        "rounds": charter and charter.rounds,
        "rounds_released": None,
        "rounds_without_release": None,
        "rounds_charged": None,
    }
    account = account_of(config, population_of(identity))
    ledger = account.ledger
    if charter is not None:
        last = highest_approved(config.state, charter.federation)
        own = charter.digest().hex()
        facts["approved"] = last is not None and last.digest == own
        if ledger is not None:
            facts["rounds_released"] = len(_rounds(ledger, Released, own))
            facts["rounds_without_release"] = len(_rounds(ledger, Aborted, own))
            facts["rounds_charged"] = len({i.round for i in ledger.intents(own)})
    return facts | budget_facts(account)


def budget_facts(account: Account) -> dict[str, Any]:
    """Epsilon spent, the cap and what is left, by the ledger and every accountant."""
    population, ledger = account.population, account.ledger
    if ledger is None:
        return {
            "population": population,
            "ledger_entries": 0,
            "delta": account.policy.delta,
            "epsilon_cap": account.policy.epsilon,
            "epsilon_spent": 0.0,
            "epsilon_left": account.policy.epsilon,
        }
    spent = ledger.spent()
    cap = account.lifetime_limit
    return {
        "population": population,
        "ledger_entries": ledger.sequence,
        "ledger_head": ledger.hash.hex(),
        "delta": ledger.delta,
        "epsilon_cap": figure(cap),
        "epsilon_spent": figure(spent.published),
        "epsilon_left": max(0.0, cap - spent.published) if cap < math.inf else None,
        "epsilon_pld": figure(spent.pld),
        "epsilon_prv": figure(spent.prv),
        "epsilon_rdp_bound": figure(spent.rdp),
    }


def charges_table(ledger: Ledger | None) -> list[dict[str, Any]]:
    """One row a charter: its charges, and what they cost by themselves."""
    if ledger is None:
        return []
    by_charter: dict[str, list[Intent]] = {}
    for intent in ledger.intents():
        by_charter.setdefault(intent.charter, []).append(intent)
    return [
        _charges_row(ledger, charter, intents)
        for charter, intents in by_charter.items()
    ]


def aggregator_facts(config: AggregatorConfig) -> dict[str, Any]:
    """Identity, charter, approvals and rounds. None: not there yet."""
    identity = load_identity(config.identity, passphrase_of(config))
    facts: dict[str, Any] = {
        "name": identity.name,
        "identity": identity.card.identity,
        "card_expires": identity.card.expires,
        "listen": config.listen,
    }
    if not config.charter.exists():
        return facts | {"federation": None, "epoch": None}
    charter = Charter.load(config.charter)
    approvals = load_approvals([config.approvals]) if config.approvals.exists() else ()
    good = {a.name for a in approvals if a.digest == charter.digest().hex()}
    folder = config.state / charter.digest().hex()[:16]
    progress = Progress.load(folder)
    return facts | {
        "federation": charter.federation,
        "epoch": charter.epoch,
        "approvals_missing": [r.name for r in charter.roster if r.name not in good],
        "rounds": charter.rounds,
        "rounds_certified": progress.certified if progress else 0,
        "round_drawn_for": _drawn_for(charter, progress),
        "run_folder": folder if progress else None,
        "adapter": folder / "adapter" if progress and progress.certified else None,
    }


def _drawn_for(charter: Charter, progress: Progress | None) -> list[str] | None:
    """The silos of the round that is under way, None where all take part or it is over."""
    now = progress.round if progress else 1
    if charter.silos_per_round is None or now > charter.rounds:
        return None
    return list(Cohorts(charter).names(now))


def _charges_row(ledger: Ledger, charter: str, intents: list[Intent]) -> dict[str, Any]:
    # The accountants take a second to import; a silo without charges needs none.
    from dp_accounting import ComposedDpEvent

    from fedit_secure.privacy.accountant import spent_epsilons

    first = intents[0]
    event = ComposedDpEvent([intent.event() for intent in intents])
    return {
        "run": first.run,
        "charter": charter[:16],
        "charged": len(intents),
        "planned": first.charges,
        "released": len(_rounds(ledger, Released, charter)),
        "rate": first.sample_rate,
        "noise": first.noise_multiplier,
        "steps": first.steps,
        "epsilon": figure(spent_epsilons(event, ledger.delta).published),
    }


def _rounds(
    ledger: Ledger, kind: type[Released] | type[Aborted], charter: str
) -> set[int]:
    return {
        event.round
        for event in ledger.events
        if isinstance(event, kind) and event.charter == charter
    }


def population_of(identity: Identity) -> str:
    """The population that a silo's card names, its own name by default."""
    return identity.card.population or identity.name
