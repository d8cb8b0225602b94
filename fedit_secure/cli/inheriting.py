"""What `fedit budget inherit` looks up, shows and signs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fedit_secure.cli.caps_table import figure
from fedit_secure.cli.standing import identity_of
from fedit_secure.config import SiloConfig, load_policy
from fedit_secure.federation.charter import Charter
from fedit_secure.privacy.ledger import Ledger
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.silo.fingerprints import Prints, commitment
from fedit_secure.silo.ledger_opening import open_journal, stored_ledger
from fedit_secure.silo.overlaps import Overlap, inherit, owed
from fedit_secure.storage.journal import Journal
from fedit_secure.tuning.job import DataSource
from fedit_secure.tuning.records import load_records


@dataclass(frozen=True, slots=True)
class Estate:
    """What a population's ledger lacks, and all that is needed to take it over."""

    config: SiloConfig
    journal: Journal
    charter: Charter
    key: SigningKey
    fingerprints: bytes
    prints: Prints
    missing: tuple[Overlap, ...]

    def table(self) -> list[dict[str, Any]]:
        """One row for each population whose charges would be taken over."""
        return [
            {
                "population": overlap.source.population,
                "records_shared": overlap.records if overlap.known else "unknown",
                "persons_shared": overlap.persons if overlap.known else "unknown",
                "epsilon_spent": figure(overlap.source.spent().published),
                "delta": overlap.source.delta,
            }
            for overlap in self.missing
        ]

    def take_over(self, reason: str) -> Ledger:
        """Signs and writes it. Raises as `silo.overlaps.inherit`."""
        return inherit(
            self.journal,
            self.charter,
            self.config.name,
            self.key,
            load_policy(self.config.policy),
            self.fingerprints,
            self.prints,
            reason,
        )


@contextmanager
def open_estate(config: SiloConfig) -> Iterator[Estate]:
    """Looks up what the configured charter's population shares with others here.

    Holds the journal's lock: no daemon runs beside it.
    """
    identity, charter = identity_of(config), Charter.load(config.charter)
    charter.check_card(identity.card)
    records = load_records(DataSource.model_validate(config.data.model_dump()))
    prints = Prints.of(records, identity.signing)
    with open_journal(config.state) as journal:
        ledger = stored_ledger(journal, charter, config.name)
        population = charter.row(config.name).population
        yield Estate(
            config,
            journal,
            charter,
            identity.signing,
            commitment(records, identity.signing),
            prints,
            owed(journal, population, ledger, prints),
        )
