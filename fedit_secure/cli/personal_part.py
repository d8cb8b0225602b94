"""`fedit silo personal`: where a silo's own adapter is, and what becomes of a lost B."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedit_secure.cli.standing import identity_of, looked_at
from fedit_secure.config import SiloConfig
from fedit_secure.errors import ConfigError
from fedit_secure.federation.aggregation import kept_factors
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.durable import read_file
from fedit_secure.silo.personal import Personal
from fedit_secure.storage.journal import Journal


def personal_facts(config: SiloConfig) -> dict[str, Any]:
    """The silo's own adapter, and the file of its B. None: not there yet.

    Beside a running daemon, too. Raises ConfigError under a charter in which silos keep
    nothing of their own.
    """
    charter = _charter(config)
    with looked_at(config) as journal:
        return _facts(None if journal is None else _personal(journal, config, charter))


def restore(config: SiloConfig, source: Path) -> dict[str, Any]:
    """Takes an earlier file of this silo's B for the one that counts; the facts then.

    Raises ConfigError that names the file, and StorageError while a daemon runs.
    """
    charter, data = _charter(config), read_file(source, "the silo's own B")
    with Journal.open(config.state / "journal.sqlite") as journal:
        personal = _personal(journal, config, charter)
        personal.restore(source, data)
        return _facts(personal)


def start_over(config: SiloConfig) -> dict[str, Any]:
    """Has no B of the silo's count any more; the facts then. Raises as `restore`."""
    charter = _charter(config)
    with Journal.open(config.state / "journal.sqlite") as journal:
        personal = _personal(journal, config, charter)
        personal.start_over()
        return _facts(personal)


def _charter(config: SiloConfig) -> Charter:
    identity_of(config)
    charter = Charter.load(config.charter)
    aggregation = charter.adapter.aggregation
    if not kept_factors(aggregation):
        raise ConfigError(
            f"epoch {charter.epoch} of {charter.federation!r} has aggregation "
            f"{aggregation or 'fedit'}, in which a silo keeps no B of its own"
        )
    return charter


def _personal(journal: Journal, config: SiloConfig, charter: Charter) -> Personal:
    return Personal(journal, charter, config.name, config.model)


def _facts(personal: Personal | None) -> dict[str, Any]:
    held = None if personal is None else personal.begins_with
    facts: dict[str, Any] = {
        "adapter": None,
        "own_b": None,
        "own_b_epoch": held and held.epoch,
        "own_b_round": held and held.round,
        "own_b_is_whole": None,
    }
    if personal is None:
        return facts
    if personal.adapter.is_dir():
        facts["adapter"] = personal.adapter
    if held is not None:
        facts["own_b"] = personal.path(held)
        facts["own_b_is_whole"] = personal.is_whole(held)
    return facts
