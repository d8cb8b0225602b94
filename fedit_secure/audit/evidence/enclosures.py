"""Cards and claims that somebody has in a folder, held against the charter they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from fedit_secure.audit.evidence.export import Piece
from fedit_secure.errors import ConfigError, PolicyRefusal
from fedit_secure.federation.card import Card
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.claim import Claim, verify_claim


def cards_in(folder: Path, charter: Charter) -> list[Card]:
    """The cards of the charter's parties among the *.card files of a folder.

    Raises ConfigError if one isn't what the charter pins, or its signature is wrong.
    """
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}")
    found = [(path, Card.load(path)) for path in sorted(folder.glob("*.card"))]
    ours = {row.name for row in charter.roster} | {charter.aggregator.name}
    kept = [(path, card) for path, card in found if card.name in ours]
    for path, card in kept:
        try:
            card.check()
            _require_pinned(card, charter)
        except (ConfigError, PolicyRefusal) as error:
            raise ConfigError(f"{path}: {error}") from error
    return [card for _, card in kept]


def _require_pinned(card: Card, charter: Charter) -> None:
    hub = charter.aggregator
    if card.name != hub.name:
        charter.check_card(card)
    elif (card.role, card.identity, card.issuer_certificate) != (
        "aggregator",
        hub.identity,
        hub.issuer_certificate,
    ):
        raise PolicyRefusal(f"the charter pins another aggregator than {card.name!r}")


def card_pieces(cards: Iterable[Card]) -> Iterator[Piece]:
    """Each party's card once."""
    for name, card in {card.name: card for card in cards}.items():
        yield Piece(f"cards/{name}.card", card.to_bytes())


def claims_in(folder: Path, charter: Charter) -> dict[str, Claim]:
    """The *.claim files of a folder, by silo; none if there is no such folder.

    Raises ConfigError unless each is signed by its silo and about this charter.
    """
    found: dict[str, Claim] = {}
    for path in sorted(folder.glob("*.claim")):
        claim = Claim.load(path)
        try:
            verify_claim(charter, claim)
        except PolicyRefusal as error:
            raise ConfigError(f"{path}: {error}") from error
        if claim.silo in found:
            raise ConfigError(f"{path} is a second claim of silo {claim.silo!r}")
        found[claim.silo] = claim
    return found
