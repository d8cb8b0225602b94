"""`fedit budget set`: change the lifetime cap, in the ledger, under the operator's key."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from fedit_secure.cli.caps_table import figure
from fedit_secure.cli.standing import identity_of, population_of
from fedit_secure.config import SiloConfig, load_policy
from fedit_secure.errors import ConfigError, StorageError
from fedit_secure.federation.admission import Account
from fedit_secure.federation.document import describe
from fedit_secure.federation.identity import Identity
from fedit_secure.federation.signed_ledger import identity_of as ledger_identity
from fedit_secure.federation.signed_ledger import next_change
from fedit_secure.privacy.ledger import Ledger
from fedit_secure.silo.account import account_in
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.storage.journal import Journal
from fedit_secure.storage.journal_file import JournalInUse


@dataclass(frozen=True, slots=True)
class Proposed:
    """A change that is signed and could be committed; `ledger` is the one after it."""

    before: Account
    ledger: Ledger
    journal: Journal

    def words(self) -> list[str]:
        """What it allows, as sentences for the operator who has to decide."""
        old, new = self.before.ledger, self.ledger.cap_epsilon
        assert old is not None
        spent, policy = old.spent().published, self.before.policy.epsilon
        whose = f"what the records of {self.ledger.population!r} may ever cost"
        was = "no cap" if old.cap_epsilon == math.inf else f"{old.cap_epsilon:g}"
        way = "raises" if new > old.cap_epsilon else "lowers"
        at = f"at delta {self.ledger.delta:g}"
        said = [f"this {way} {whose} from {was} to epsilon {new:g}, {at}"]
        if new > old.cap_epsilon:
            said.append(
                f"an attacker's odds about one {old.opened.unit} may then change by a "
                f"factor of {_factor(new)}; it was {_factor(old.cap_epsilon)} at most"
            )
            said.append("what is released under it can't be taken back")
        if spent > new:
            said.append(f"{spent:.4g} is spent already: nothing more will be charged")
        if policy is not None and policy < new:
            said.append(f"the policy's epsilon of {policy:g} still holds: it is lower")
        return said

    def commit(self) -> dict[str, Any]:
        """Writes the entry, durably; returns the facts after it."""
        before = self.before.ledger
        assert before is not None
        self.journal.commit(
            population=self.ledger.population,
            expected_sequence=before.sequence,
            entries=self.ledger.entries[before.sequence :],
        )
        after = Account(self.ledger.population, self.before.policy, self.ledger)
        spent = self.ledger.spent().published
        return {
            "population": self.ledger.population,
            "entry": self.ledger.sequence,
            "delta": self.ledger.delta,
            "epsilon_cap_before": _cap(before.cap_epsilon),
            "epsilon_cap": _cap(self.ledger.cap_epsilon),
            "policy_epsilon": self.before.policy.epsilon,
            "epsilon_spent": figure(spent),
            "epsilon_left": max(0.0, after.lifetime_limit - spent),
        }


@contextmanager
def proposed_cap(config: SiloConfig, epsilon: float, reason: str) -> Iterator[Proposed]:
    """The change, with the journal locked so that nothing is charged meanwhile.

    Raises ConfigError where there is no ledger yet, the key isn't the ledger's, or the cap
    or the reason can't be; StorageError while a daemon uses the journal.
    """
    identity = identity_of(config)
    population = population_of(identity)
    policy = load_policy(config.policy)
    if not math.isfinite(epsilon) or epsilon <= 0:
        raise ConfigError(f"the cap is {epsilon:g}, but must be positive and finite")
    if (
        not (config.state / "journal.made").exists()
        and not (config.state / "journal.sqlite").exists()
    ):
        raise ConfigError(_NOTHING.format(population))
    try:
        journal = open_journal(config.state)
    except JournalInUse:
        raise StorageError(
            f"the silo's daemon is running on {config.state}: stop it, then change the cap"
        ) from None
    with journal:
        account = account_in(journal, population, policy)
        yield Proposed(account, _changed(account, identity, epsilon, reason), journal)


_NOTHING = (
    "there is no ledger of {!r} yet: the policy's epsilon is the cap that its first charter "
    "will open it with"
)


def _changed(
    account: Account, identity: Identity, epsilon: float, reason: str
) -> Ledger:
    ledger = account.ledger
    if ledger is None:
        raise ConfigError(_NOTHING.format(account.population))
    if ledger_identity(ledger) != identity.signing.public.hex():
        raise ConfigError(
            f"the ledger of {account.population!r} is under another key than the one in "
            f"{identity.folder}, and only that key can change its cap"
        )
    if epsilon == ledger.cap_epsilon:
        raise ConfigError(f"the cap of {account.population!r} is {epsilon:g} already")
    try:
        event = next_change(ledger, epsilon, reason).signed(identity.signing)
    except ValidationError as error:
        raise ConfigError(f"the change: {describe(error.errors()[0])}") from error
    return ledger.append(event)


def _factor(epsilon: float) -> str:
    return f"{math.exp(epsilon):,.4g}" if epsilon < 30 else f"e^{epsilon:g}"


def _cap(epsilon: float) -> float | None:
    return None if epsilon == math.inf else epsilon
