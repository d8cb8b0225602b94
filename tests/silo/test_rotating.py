"""A silo's ledgers go over to its next key under the old one's signature, or not at all."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from small_federation import POLICY, SmallFederation, found

from fedit_secure.errors import ConfigError, PolicyRefusal, StorageError
from fedit_secure.federation.identity import Identity, create_identity, load_identity
from fedit_secure.federation.ledger_signatures import UNSIGNED
from fedit_secure.federation.rotation import (
    begin_rotation,
    identity_in_use,
    identity_under,
    next_folder,
    put_in_use,
    require_pinned,
)
from fedit_secure.federation.signed_ledger import (
    check_signatures,
    identity_of,
    sign_event,
)
from fedit_secure.privacy.ledger import KeyRotated, Ledger
from fedit_secure.silo.fingerprints import Prints
from fedit_secure.silo.ledger_opening import open_journal, stored_ledger
from fedit_secure.silo.overlaps import inherit, require_inherited
from fedit_secure.silo.rotating import rotate_ledgers
from fedit_secure.storage.journal import Journal

NOW = datetime(2026, 11, 30, tzinfo=UTC)


@pytest.fixture
def federation(tmp_path: Path) -> SmallFederation:
    """Three silos; the first has charged a round."""
    federation = found(tmp_path, 3)
    with open_journal(federation.root / "s0") as journal:
        books = federation.books(federation.silos[0], journal)
        books.admit(bytes(32))
        books.reserve(1)
    return federation


@pytest.fixture
def old(federation: SmallFederation) -> Identity:
    return federation.silos[0]


@pytest.fixture
def new(old: Identity) -> Identity:
    return begin_rotation(old, now=NOW, passphrase=None)


def pinning(federation: SmallFederation, card: Identity) -> SmallFederation:
    """The federation in its next epoch, with this identity as its first silo."""
    change = {
        "identity": card.card.identity,
        "issuer_certificate": card.card.issuer_certificate,
    }
    first, *rest = federation.charter.roster
    roster = (first.model_copy(update=change), *rest)
    before = federation.charter.digest().hex()
    charter = federation.charter.model_copy(
        update={"roster": roster, "epoch": 2, "predecessor": before}
    )
    silos = [card, *federation.silos[1:]]
    return SmallFederation(
        federation.root, charter, silos, federation.aggregator, [], federation.initial
    )


def ledger_in(journal: Journal, population: str = "s0") -> Ledger:
    return Ledger.from_entries(population, journal.ledger(population))


def append(journal: Journal, ledger: Ledger, event: KeyRotated) -> None:
    after = ledger.append(event)
    journal.commit(
        population="s0",
        expected_sequence=ledger.sequence,
        entries=after.entries_after(ledger.sequence),
    )


def test_the_old_key_hands_the_ledger_over_once(
    federation: SmallFederation, old: Identity, new: Identity
) -> None:
    public = new.signing.public
    with open_journal(federation.root / "s0") as journal:
        before = ledger_in(journal)
        assert rotate_ledgers(journal, "s0", old.signing, public) == ("s0",)
        after = ledger_in(journal)
        assert after.entries[:-1] == before.entries
        assert identity_of(after) == new.card.identity
        check_signatures(after)
        # A second call, as after a crash, finds nothing left to do.
        assert rotate_ledgers(journal, "s0", old.signing, public) == ()
        assert rotate_ledgers(journal, "s0", None, public) == ()
        assert ledger_in(journal) == after
        # The next epoch goes on with it, at what it has cost.
        books = pinning(federation, new).books(new, journal)
        books.admit(bytes(32))
        books.reserve(1)
        assert len(ledger_in(journal).intents()) == 2


def test_every_population_goes_over(
    federation: SmallFederation, old: Identity, new: Identity
) -> None:
    row = federation.charter.roster[0].model_copy(update={"population": "ward 7"})
    roster = (row, *federation.charter.roster[1:])
    other = federation.charter.model_copy(update={"roster": roster, "run": "other"})
    ward = SmallFederation(
        federation.root, other, federation.silos, federation.aggregator, [],
        federation.initial,
    )  # fmt: skip
    with open_journal(federation.root / "s0") as journal:
        ward.books(old, journal).admit(bytes(32))
        rotated = rotate_ledgers(journal, "s0", old.signing, new.signing.public)
        assert rotated == ("s0", "ward 7")
        for population in rotated:
            ledger = ledger_in(journal, population)
            assert identity_of(ledger) == new.card.identity
            check_signatures(ledger)


def test_attack_rotation_not_signed_by_the_old_key(
    federation: SmallFederation, new: Identity
) -> None:
    """Who can write the journal, and lacks the old key, signs the rotation with the new
    one: neither the daemon nor another rotation believes it."""
    with open_journal(federation.root / "s0") as journal:
        ledger = ledger_in(journal)
        thief, old = new.signing, ledger.opened.identity
        event = KeyRotated(old=old, new=thief.public.hex(), signature=UNSIGNED)
        append(journal, ledger, sign_event(thief, ledger, event))
        with pytest.raises(StorageError, match="'key-rotated' isn't signed by"):
            pinning(federation, new).books(new, journal)
        with pytest.raises(StorageError, match="'key-rotated' isn't signed by"):
            rotate_ledgers(journal, "s0", None, thief.public)


def test_attack_rotation_to_a_key_that_the_charter_lacks(
    federation: SmallFederation, old: Identity, new: Identity
) -> None:
    """Signed by the old key as it should be; but the charter that all approved pins another
    key, whether the one before or a third."""
    third = federation.silos[1]
    with open_journal(federation.root / "s0") as journal:
        rotate_ledgers(journal, "s0", old.signing, new.signing.public)
        before = journal.ledger("s0")
        for pinned in (old, third):
            charter = pinning(federation, pinned).charter
            with pytest.raises(ConfigError, match="and the charter pins"):
                stored_ledger(journal, charter, "s0")
        assert journal.ledger("s0") == before


def test_attack_old_key_used_after_the_rotation(
    federation: SmallFederation, old: Identity, new: Identity
) -> None:
    """It can neither go on with the ledger nor take it back to itself."""
    with open_journal(federation.root / "s0") as journal:
        rotate_ledgers(journal, "s0", old.signing, new.signing.public)
        with pytest.raises(
            ConfigError, match="only the old key can hand a ledger over"
        ):
            federation.books(old, journal)
        ledger = ledger_in(journal)
        back = KeyRotated(
            old=new.card.identity, new=old.card.identity, signature=UNSIGNED
        )
        append(journal, ledger, sign_event(old.signing, ledger, back))
        with pytest.raises(StorageError, match="'key-rotated' isn't signed by"):
            stored_ledger(journal, federation.charter, "s0")


def test_a_ledger_under_a_third_key_goes_nowhere(
    federation: SmallFederation, new: Identity
) -> None:
    stranger = federation.silos[1].signing
    with open_journal(federation.root / "s0") as journal:
        before = journal.ledger("s0")
        for key in (stranger, None):
            with pytest.raises(ConfigError, match="neither the silo's old one nor"):
                rotate_ledgers(journal, "s0", key, new.signing.public)
        assert journal.ledger("s0") == before


def test_after_a_lost_key_a_new_population_inherits_what_the_old_one_cost(
    federation: SmallFederation,
) -> None:
    """Nobody can hand the old ledger over; the journal still has it, and its charges count
    for the same records under whatever name and key."""
    lost = federation.silos[0]
    made = create_identity(
        lost.folder.with_name("made"), "s0", "silo", "x", now=NOW, population="s0 anew"
    )
    row = {"population": "s0 anew", "identity": made.card.identity}
    first, *rest = pinning(federation, made).charter.roster
    roster = (first.model_copy(update=row), *rest)
    charter = pinning(federation, made).charter.model_copy(update={"roster": roster})
    prints = Prints(made.signing.public, frozenset(), frozenset())
    with open_journal(federation.root / "s0") as journal:
        known = ledger_in(journal)
        with pytest.raises(PolicyRefusal, match="nobody knows what it shares"):
            require_inherited(journal, "s0 anew", None, prints)
        given = (charter, "s0", made.signing, POLICY, bytes(32), prints, "key lost")
        ledger = inherit(journal, *given)
        assert ledger.spent().published >= known.spent().published > 0
        check_signatures(ledger)
        # A later rotation passes over the ledger that nobody can sign for.
        following = begin_rotation(made, now=NOW, passphrase=None).signing.public
        rotated = rotate_ledgers(journal, "s0 anew", made.signing, following)
        assert rotated == ("s0 anew",)
        assert ledger_in(journal) == known


# --------------------------------------------------------------------------- the folders


def test_the_next_card_says_the_same_under_new_keys(old: Identity) -> None:
    new = begin_rotation(old, now=NOW, passphrase=None, records=101)
    assert new.folder == next_folder(old.folder)
    same = ("name", "role", "population", "contact", "names_persons", "persons")
    for field in same:
        assert getattr(new.card, field) == getattr(old.card, field)
    assert new.card.records == 101
    assert new.card.identity != old.card.identity
    assert new.card.issuer_certificate != old.card.issuer_certificate
    with pytest.raises(ConfigError, match="is there already"):
        begin_rotation(old, now=NOW, passphrase=None)
    assert load_identity(old.folder).card == old.card


def test_the_charter_says_which_identity_counts(
    federation: SmallFederation, old: Identity, new: Identity
) -> None:
    following = pinning(federation, new).charter
    assert identity_under(federation.charter, old.folder, None).card == old.card
    assert identity_under(following, old.folder, None).card == new.card
    with pytest.raises(ConfigError, match="run fedit silo rotate --finish"):
        identity_in_use(following, old.folder, None)
    stranger = pinning(federation, federation.silos[1]).charter
    with pytest.raises(PolicyRefusal, match="isn't this silo's own card"):
        identity_under(stranger, old.folder, None)
    hub = federation.aggregator
    require_pinned(federation.charter, hub.card)
    begun = begin_rotation(hub, now=NOW, passphrase=None)
    with pytest.raises(PolicyRefusal, match="another identity for the aggregator"):
        require_pinned(federation.charter, begun.card)
    assert identity_in_use(federation.charter, hub.folder, None).card == hub.card


@pytest.mark.parametrize("dies", [False, True])
def test_the_next_identity_takes_the_place_of_the_one_before(
    old: Identity, new: Identity, dies: bool
) -> None:
    retired = old.folder.with_name(f"identity.retired-{old.card.identity[:8]}")
    if dies:  # between the two moves
        old.folder.rename(retired)
        with pytest.raises(ConfigError, match="a rotation was cut short"):
            load_identity(old.folder)
    assert put_in_use(old.folder) == (None if dies else retired)
    assert load_identity(old.folder).card == new.card
    assert load_identity(retired).card == old.card
    assert not next_folder(old.folder).exists()
