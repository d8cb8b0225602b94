"""Who agreed to what: the charter, its approvals and the parties' cards."""

from __future__ import annotations

from collections.abc import Iterator

from fedit_secure.audit.bundle import Bundle
from fedit_secure.audit.findings import Fault
from fedit_secure.errors import ConfigError, PolicyRefusal
from fedit_secure.federation.approval import Approval, verify_approval
from fedit_secure.federation.card import Card
from fedit_secure.federation.charter import Charter

_UNITS_PER_DELTA = 10
_SMALL = 64 << 10  # bytes of a card or an approval


def check_parties(
    bundle: Bundle, charter: Charter, expected: tuple[str, ...]
) -> Iterator[Fault]:
    """Faults of approvals and cards. `expected`: whose approvals must be there."""
    approved = set(bundle.stems("approvals", ".approval"))
    for name in expected:
        if name not in approved:
            yield Fault("approval-missing", f"silo {name}", "it hasn't approved")
    own = charter.digest()
    for name in sorted(approved):
        yield from _approval(bundle, charter, own, name)
    for name in bundle.stems("cards", ".card"):
        yield from _card(bundle, charter, name)


def check_delta(charter: Charter) -> Iterator[Fault]:
    """A larger delta would allow publishing somebody's record outright now and then."""
    delta = charter.dp.delta
    for row in charter.roster:
        if delta is None or row.units is None:
            continue
        if delta * _UNITS_PER_DELTA * row.units > 1 + 1e-9:
            what = f"delta is {delta:g} for its {row.units} {charter.counted}"
            yield Fault("delta-too-large", f"silo {row.name}", what)


def _approval(
    bundle: Bundle, charter: Charter, own: bytes, name: str
) -> Iterator[Fault]:
    where = f"approvals/{name}.approval"
    try:
        approval = Approval.from_bytes(bundle.read(where, _SMALL) or b"", where)
        if approval.name != name:
            yield Fault("approval-wrong", where, f"it is {approval.name}'s")
            return
        verify_approval(charter, approval, own)
    except (ConfigError, PolicyRefusal) as wrong:
        yield Fault("approval-wrong", where, str(wrong))


def _card(bundle: Bundle, charter: Charter, name: str) -> Iterator[Fault]:
    where = f"cards/{name}.card"
    try:
        card = Card.from_bytes(bundle.read(where, _SMALL) or b"", where)
        card.check()
    except ConfigError as wrong:
        yield Fault("card-unsigned", where, str(wrong))
        return
    if card.name != name:
        yield Fault("card-differs", where, f"it is {card.name}'s")
    elif card.role == "aggregator":
        hub = charter.aggregator
        pinned = (hub.name, hub.identity, hub.issuer_certificate)
        if pinned != (card.name, card.identity, card.issuer_certificate):
            yield Fault("card-differs", where, "the charter pins another aggregator")
    else:
        try:
            charter.check_card(card)
        except PolicyRefusal as wrong:
            yield Fault("card-differs", where, str(wrong))
