"""Every exception of fedit-secure, and the exit status that each one ends a command with.

Misbehaviour of a peer raises an error that names the suspect and says how sure we are:
`FaultySilo` and `FaultyAggregator` are proof (the evidence is signed by the suspect),
`FaultySiloOrAggregator` is not: one of the two is at fault, and an honest party must
not be punished on it alone.
"""

from __future__ import annotations

from typing import ClassVar


class FeditError(Exception):
    """Base of every error that fedit-secure raises on purpose. Its text is one sentence."""

    exit_status: ClassVar[int] = 1


class ProtocolError(FeditError):
    """A message that the protocol doesn't allow in this state, whoever is to blame."""


class FaultySilo(ProtocolError):
    """The named silo deviated from the protocol, and its own signature proves it."""

    def __init__(self, silo: str, what: str) -> None:
        super().__init__(f"silo {silo!r} is faulty: {what}")
        self.suspect = silo
        self.what = what


class FaultyAggregator(ProtocolError):
    """The aggregator deviated from the protocol."""

    suspect = "aggregator"

    def __init__(self, what: str) -> None:
        super().__init__(f"the aggregator is faulty: {what}")
        self.what = what


class FaultySiloOrAggregator(ProtocolError):
    """The named silo or the aggregator deviated; this is no proof against either."""

    def __init__(self, silo: str, what: str) -> None:
        super().__init__(f"silo {silo!r} or the aggregator is faulty: {what}")
        self.suspect = silo
        self.what = what


class MalformedMessage(ProtocolError):
    """Bytes from a peer that don't decode, or that exceed a size or shape limit."""


class AttemptFailed(ProtocolError):
    """One attempt at a release ended without a sum; `reason` says why. Nobody is blamed."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the release attempt failed: {reason}")
        self.reason = reason


class QuorumLost(ProtocolError):
    """Too few silos agree to go on: only a new charter epoch can continue this run."""

    exit_status = 8


class PolicyRefusal(FeditError):
    """The silo's own policy, or its charter, doesn't allow what was asked."""

    exit_status = 6


class BudgetExhausted(PolicyRefusal):
    """The privacy budget that remains doesn't cover what was asked."""

    exit_status = 7


class ConfigError(FeditError):
    """A file, field or option is wrong; the text names it."""

    exit_status = 4


class PlanMisfit(ConfigError):
    """A plan that is fine by itself doesn't fit the parties' cards; `field` is its key."""

    def __init__(self, field: str, what: str) -> None:
        super().__init__(what)
        self.field = field


class StorageError(FeditError):
    """Durable state is missing, damaged, locked, or can't be written. Nothing was guessed."""


class LedgerBehind(StorageError):
    """The privacy ledger here is lost, older than what others know of it, or another.

    The text says how to restore it. Nothing was charged, and no record was sampled.
    """

    exit_status = 10


class FuseBlown(StorageError):
    """A step that may happen once has happened already, or must never happen any more."""


class ConnectError(FeditError):
    """A peer can't be reached, or can't prove who it is."""

    exit_status = 2


class TurnedAway(FeditError):
    """The aggregator answered and won't serve this silo: no later try changes that."""

    exit_status = 2


class DeadlineExceeded(FeditError):
    """A peer didn't answer in time."""

    exit_status = 3


class TuningFailed(FeditError):
    """The local tuning job ended without an update. The charge stays."""


class AuditFailed(FeditError):
    """A claim of an audited run doesn't hold, a build doesn't do what it promises, or an
    adapter gives records away."""

    exit_status = 9
