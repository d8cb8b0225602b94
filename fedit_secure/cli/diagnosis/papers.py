"""What this party has agreed on: configuration, keys, policy, charter, approvals."""

from __future__ import annotations

from datetime import UTC, datetime

from fedit_secure.cli.diagnosis.checks import Case, Check, Skip, Warn
from fedit_secure.config import (
    load_aggregator_config,
    load_policy,
    load_silo_config,
    passphrase_of,
)
from fedit_secure.errors import ConfigError, PolicyRefusal
from fedit_secure.federation.approval import (
    Approval,
    check_approved,
    highest_approved,
    load_approvals,
    verify_approval,
)
from fedit_secure.federation.certificates import check_issuer
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.durable import read_file
from fedit_secure.federation.identity import load_identity
from fedit_secure.federation.update import GridState

WARN_DAYS = (30, 7, 1)
"""Days before a certificate ends at which a warning grows louder."""


def _silo_configuration(case: Case) -> str:
    case.silo = case.config = load_silo_config(case.path)
    return f"{case.path} is that of silo {case.silo.name!r}"


def _hub_configuration(case: Case) -> str:
    case.hub = case.config = load_aggregator_config(case.path)
    return f"{case.path} is an aggregator's"


def _identity(case: Case) -> str:
    passphrase = passphrase_of(case.config)
    identity = load_identity(case.config.identity, passphrase)
    if identity.card.role != case.role:
        raise ConfigError(
            f"the identity in {case.config.identity} is that of a {identity.card.role}"
        )
    if case.role == "silo" and identity.name != case.silo.name:
        raise ConfigError(
            f"the identity in {case.config.identity} is that of {identity.name!r}, and "
            f"the configuration's 'name' is {case.silo.name!r}"
        )
    case.identity = identity
    said = f"keys and card of {identity.name!r} belong together, and are its owner's"
    return said if passphrase is None else f"{said}; the keys are encrypted"


def _certificates(case: Case) -> str | Warn:
    """This party's own, and those of the others in the charter."""
    pinned = {case.identity.name: case.identity.card.issuer_certificate}
    if case.charter is not None:
        rows = (case.charter.aggregator, *case.charter.roster)
        if case.role == "silo":
            rows = (case.charter.aggregator,)
        pinned |= {row.name: row.issuer_certificate for row in rows}
    now = datetime.now(UTC)
    left = {
        name: (check_issuer(pem).not_valid_after_utc - now).days
        for name, pem in pinned.items()
    }
    name, days = min(left.items(), key=lambda each: each[1])
    if days < 0:
        raise ConfigError(f"the certificate of {name!r} has expired")
    said = f"{len(left)} valid; the first to end is that of {name!r}, in {days} days"
    if days <= WARN_DAYS[0]:
        urgency = next(limit for limit in reversed(WARN_DAYS) if days <= limit)
        least = f"less than {urgency} day{'s' if urgency > 1 else ''}"
        return Warn(f"that of {name!r} ends in {days} days: {least} are left")
    return said


def _policy(case: Case) -> str:
    policy = case.policy = load_policy(case.silo.policy)
    if policy.epsilon is None:
        return "it sets no budget, and allows runs without differential privacy"
    return f"epsilon {policy.epsilon:g} at delta {policy.delta:g}, ever"


def _charter(case: Case) -> str | Warn | Skip:
    path = case.config.charter
    if not path.exists():
        return Skip(f"there is no {path} yet", _ASK_FOR_CHARTER)
    charter = Charter.load(path)
    charter.check_date(datetime.now(UTC).date())
    if case.role == "silo":
        charter.check_card(case.identity.card)
    else:
        card, row = case.identity.card, charter.aggregator
        if (row.identity, row.issuer_certificate) != (
            card.identity,
            card.issuer_certificate,
        ):
            raise PolicyRefusal("the charter pins another aggregator than this one")
    case.charter = charter
    days = (charter.expires - datetime.now(UTC).date()).days
    said = f"epoch {charter.epoch} of {charter.federation!r}, for {days} more days"
    return Warn(said, _NEXT_EPOCH) if days <= WARN_DAYS[0] else said


def _approval(case: Case) -> str | Warn:
    charter = case.charter
    assert charter is not None
    if highest_approved(case.silo.state, charter.federation) is None:
        return Warn("this silo hasn't approved the charter yet")
    check_approved(case.silo.state, charter)
    if not case.silo.approval.exists():
        return Warn(f"the charter is approved, but {case.silo.approval} isn't there")
    verify_approval(charter, Approval.load(case.silo.approval))
    return "this silo has approved exactly this charter"


def _approvals(case: Case) -> str | Warn:
    charter, folder = case.charter, case.hub.approvals
    assert charter is not None
    found = load_approvals([folder]) if folder.exists() else ()
    for approval in found:
        verify_approval(charter, approval)
    missing = sorted({row.name for row in charter.roster} - {a.name for a in found})
    if missing:
        return Warn(f"not yet there: those of {', '.join(missing)}")
    return f"all {len(charter.roster)} silos have approved the charter"


def _initial_state(case: Case) -> str:
    charter = case.charter
    assert charter is not None
    state = GridState.from_bytes(read_file(case.hub.initial_state, "initial state"))
    if state.digest().hex() != charter.adapter.initial_digest:
        raise ConfigError(
            f"{case.hub.initial_state} isn't the state that the charter names"
        )
    return "it is the one that the charter names"


_ASK_FOR_CHARTER = "Get it from the coordinator, and put it there."
_NEXT_EPOCH = "Ask the coordinator for the next epoch's charter."

SILO_CONFIGURATION = Check(
    "configuration",
    _silo_configuration,
    "Correct what the sentence names; fedit config show --origin tells where values come "
    "from.",
)
HUB_CONFIGURATION = Check("configuration", _hub_configuration, SILO_CONFIGURATION.fix)
IDENTITY = Check(
    "identity",
    _identity,
    "Do what the sentence says, or put the backup of identity/ back; a lost key needs a "
    "new charter epoch.",
    needs=("configuration",),
)
CERTIFICATES = Check(
    "certificates",
    _certificates,
    "Have that party make new keys, and the coordinator draft the next epoch with its new "
    "card.",
    needs=("identity",),
)
POLICY = Check(
    "policy",
    _policy,
    "Correct what the sentence names in policy.yaml.",
    needs=("configuration",),
)
CHARTER = Check(
    "charter",
    _charter,
    "Ask the coordinator which charter holds, and compare its fifteen words with the other "
    "operators.",
    needs=("identity",),
)
APPROVAL = Check(
    "approval",
    _approval,
    "Run fedit charter approve, and send the approval to the aggregator's operator.",
    needs=("charter",),
)
APPROVALS = Check(
    "approvals",
    _approvals,
    "Ask those silos' operators for their .approval files, and put them into that folder.",
    needs=("charter",),
)
INITIAL_STATE = Check(
    "initial-state",
    _initial_state,
    "Put the file there that the coordinator drafted together with the charter.",
    needs=("charter",),
)
