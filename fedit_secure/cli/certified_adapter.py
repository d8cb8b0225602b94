"""The adapter that a silo has after the last certified round, from its own state folder."""

from __future__ import annotations

from dataclasses import replace

from fedit_secure.cli.standing import identity_of
from fedit_secure.config import SiloConfig, load_policy
from fedit_secure.federation.charter import Charter
from fedit_secure.silo.books import Books
from fedit_secure.silo.jobs import lora_of
from fedit_secure.silo.personal import Personal
from fedit_secure.storage.adapter_store import StateStore
from fedit_secure.storage.journal import Journal
from fedit_secure.tuning.saved_adapter import SavedAdapter


def certified_adapter(config: SiloConfig, charter: Charter) -> SavedAdapter | None:
    """With the silo's own B if it keeps one: that is what it would hand on.

    None before the first certified round. Raises ConfigError, StorageError.
    """
    path = config.state / "journal.sqlite"
    if not path.exists() or not (config.state / "states").is_dir():
        return None
    key, policy = identity_of(config).signing, load_policy(config.policy)
    with Journal.open(path, read_only=True) as journal:
        states = StateStore(config.state / "states")
        personal = Personal.of(journal, charter, config.name, config.model)
        terms = (journal, states, charter, config.name, key, policy)
        books = Books(*terms, personal=personal)
        if not books.certified:
            return None
        name = f"the certified state of round {books.certified}"
        saved = SavedAdapter.of_state(name, lora_of(charter), books.state())
        if personal is None:
            return saved
        own = personal.whole(books.state())
        return replace(saved, name=f"{name} with the silo's own B", vector=own)
