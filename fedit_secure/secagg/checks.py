"""Every check of a release, in the order of its steps. Each raises, and names the suspect.

A fault is what to raise: `FaultyAggregator` where a silo checks what the aggregator showed
it and an honest one would have refused; `FaultySilo` where the suspect's own signature
proves it; `FaultySiloOrAggregator` where it may be either.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from fedit_secure.errors import FaultyAggregator, FaultySilo, ProtocolError
from fedit_secure.errors import FaultySiloOrAggregator as FaultySiloOr
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import shares
from fedit_secure.secagg.envelope import Letter, open_
from fedit_secure.secagg.keys import BadSignature, SigningKey, check_public, verify
from fedit_secure.secagg.params import Roster, SecAggParams
from fedit_secure.secagg.states import Session, Shared
from fedit_secure.secagg.transcript import Bound, Signed, digest

Fault = Callable[[str], ProtocolError]
Message = TypeVar("Message", bound=Signed)


def require(holds: bool, fault: Fault, what: str) -> None:
    """Raises `fault(what)` unless it holds."""
    if not holds:
        raise fault(what)


def faulty(session: Session, silo: int) -> Fault:
    """The fault that blames this rostered silo."""
    return lambda what: FaultySilo(session.roster.name(silo), what)


def doubtful(session: Session, silo: int) -> Fault:
    """The fault that blames this rostered silo or the aggregator."""
    return lambda what: FaultySiloOr(session.roster.name(silo), what)


# ---------------------------------------------------------------------------- signatures


def sign(key: SigningKey, message: Message) -> Message:
    """The message with its signature."""
    return replace(message, signature=key.sign(message.signed_digest()))


def signed(roster: Roster, message: Any, fault: Fault) -> None:
    """The rostered silo that the message names has signed it."""
    known = 0 <= message.silo < len(roster)
    require(known, fault, f"silo number {message.silo} isn't in the roster")
    _verify(roster.members[message.silo].verify_key, message, fault)


def by_aggregator(session: Session, message: Any) -> None:
    """The aggregator signed the message, and it is of this attempt."""
    _verify(session.roster.aggregator_key, message, FaultyAggregator)
    what = f"its {type(message).__name__} is of another attempt"
    require(same(session, message, "ctx"), FaultyAggregator, what)


def same(here: Session | Bound, message: Any, *names: str) -> bool:
    """Whether the message says the same as we on these fields, where it has them."""
    ours = {name: getattr(here, name) for name in names}
    return all(getattr(message, name, value) == value for name, value in ours.items())


def _verify(public: bytes, message: Any, fault: Fault) -> None:
    try:
        verify(public, message.signed_digest(), message.signature)
    except BadSignature:
        raise fault(f"a wrong signature on {type(message).__name__}") from None


# ------------------------------------------------------------------ sets, keys and shares


def shown(session: Session, entries: Sequence[Any], own: Any, name: str) -> list[int]:
    """The silos of a set as the aggregator shows it: sorted, no twins, large enough; each
    entry is of this attempt and signed by its silo, and the own one as it was sent."""
    silos, least = [entry.silo for entry in entries], session.params.minimum
    what = f"{name} is unsorted, or names a silo twice"
    require(silos == sorted(set(silos)), FaultyAggregator, what)
    what = f"{name} has {len(silos)} silos, fewer than the minimum of {least}"
    require(len(silos) >= least, FaultyAggregator, what)
    for entry in entries:
        signed(session.roster, entry, FaultyAggregator)
        what = f"{name} has an entry of another attempt"
        require(entry.ctx == session.ctx, FaultyAggregator, what)
        what = f"it altered this silo's own {type(own).__name__}"
        require(entry.silo != own.silo or entry == own, FaultyAggregator, what)
    return silos


def advert_keys(session: Session, advert: m.Advert) -> None:
    """Canonical and of high order; the advert's signature proves that its silo sent them."""
    try:
        check_public(advert.mask_key)
        check_public(advert.envelope_key)
    except ValueError as error:
        raise faulty(session, advert.silo)(str(error)) from None


def keys_differ(adverts: Iterable[m.Advert], fault: Fault) -> None:
    """No key stands twice: two silos with one key would share masks that cancel."""
    keys = [key for a in adverts for key in (a.mask_key, a.envelope_key)]
    require(len(set(keys)) == len(keys), fault, "a key stands twice among the adverts")


def ledger_head(session: Session, advert: m.Advert, known: m.LedgerHead | None) -> None:
    """A privacy ledger only grows: its head never goes back, and never forks."""
    head, fault = advert.ledger_head, faulty(session, advert.silo)
    if known is not None:
        same_one = head.population == known.population
        require(same_one, fault, "its privacy ledger is of another population")
        require(head.sequence >= known.sequence, fault, "its privacy ledger went back")
        grown = head.sequence > known.sequence or head == known
        require(grown, fault, "its privacy ledger has forked")


def bound_to(bound: Bound, message: Any, fault: Fault) -> None:
    """It was made for this K and, where it names one, this U2."""
    what = f"its {type(message).__name__} is for other silos"
    require(same(bound, message, "key_set", "dealers_digest"), fault, what)


def statement(session: Session, dealt: m.ShareStatement, u1: tuple[int, ...]) -> None:
    """A dealer's statement deals to all of U1."""
    lists = (dealt.envelope_hashes, dealt.self_commitments, dealt.key_commitments)
    whole = dealt.holders == u1 and all(len(x) == len(u1) for x in lists)
    require(whole, faulty(session, dealt.dealer), "it dealt to others than U1")


def envelope_hash(sealed: bytes) -> bytes:
    """What a dealer's statement says of an envelope."""
    return digest("fedit/envelope/v1", sealed)


def share(
    bound: Bound,
    dealt: m.ShareStatement,
    holder: int,
    of: str,
    piece: bytes,
    fault: Fault,
) -> None:
    """A share (of "self" or "key") is the one that its dealer committed to."""
    column = dealt.self_commitments if of == "self" else dealt.key_commitments
    mine = shares.share_commitment(bound, dealt.dealer, holder, of, piece)
    same_one = mine == column[dealt.holders.index(holder)]
    require(same_one, fault, "a share misses the dealer's commitment")


def letters(state: Shared, u2: m.ShareSet, bound: Bound) -> dict[int, Letter]:
    """The letter of every dealer in U2, each held to what its dealer signed."""
    session, me = state.start.session, state.start.me.silo
    adverts = {advert.silo: advert for advert in state.adverts.adverts}
    others = [dealt for dealt in u2.statements if dealt.dealer != me]
    whole = [dealer for dealer, _ in u2.envelopes] == [dealt.dealer for dealt in others]
    require(whole, FaultyAggregator, "it withheld or doubled an envelope of U2")
    held = {me: state.letter}
    for dealt, (dealer, sealed) in zip(others, u2.envelopes, strict=True):
        promised = dealt.envelope_hashes[dealt.holders.index(me)]
        unaltered = envelope_hash(sealed) == promised
        require(unaltered, FaultyAggregator, "it altered an envelope")
        fault, advert = faulty(session, dealer), adverts[dealer]
        own = state.secrets.envelope_key
        try:
            letter = open_(own, advert.envelope_key, bound, dealer, me, sealed)
        except ValueError as error:
            raise fault(str(error)) from None
        share(bound, dealt, me, "self", letter.self_share, fault)
        share(bound, dealt, me, "key", letter.key_share, fault)
        part = letter.group_contribution
        given = shares.secret_commitment(session.ctx, dealer, part)
        right = given == advert.group_commitment
        require(right, fault, "its group contribution misses its commitment")
        held[dealer] = letter
    return held


# ---------------------------------------------------------------- uploads and the release


def payload_digest(payload: m.Blob) -> bytes:
    """What an upload header says of the bytes that follow it."""
    return digest("fedit/payload/v1", payload)


def header(session: Session, header: m.UploadHeader) -> None:
    """Its upload has the charter's length."""
    right = header.length == session.params.payload_bytes
    require(right, faulty(session, header.silo), "an upload of another length")


def quorum(
    session: Session,
    shown: Sequence[m.Agreement],
    own: m.Agreement,
    u2: Collection[int],
) -> None:
    """t distinct members of U2 signed the very content that we signed."""
    for agreement in shown:
        signed(session.roster, agreement, FaultyAggregator)
        equal = agreement.content() == own.content()
        require(equal, FaultyAggregator, "its quorum agreed to others")
    signers, t = {agreement.silo for agreement in shown}, session.params.threshold
    sound = len(signers) == len(shown) and signers <= set(u2)
    require(sound, FaultyAggregator, "its quorum has a twin, or one outside U2")
    few = f"its quorum has {len(signers)} of {t} signatures"
    require(len(signers) >= t, FaultyAggregator, few)


# ------------------------------------------------------- statements that outlive attempts


def void_certificate(
    roster: Roster, params: SecAggParams, proof: m.VoidCertificate
) -> None:
    """t distinct silos signed that they closed this attempt."""
    for word in proof.statements:
        signed(roster, word, FaultyAggregator)
    one = {word.ctx for word in proof.statements} == {proof.ctx}
    enough = len({word.silo for word in proof.statements}) >= params.threshold
    what = "its void certificate has too few signers"
    require(one and enough, FaultyAggregator, what)


def confirmation(
    roster: Roster,
    charter: bytes,
    round: int,
    word: m.Confirmation,
    fault: Fault = ProtocolError,
) -> None:
    """A rostered silo signed it, for this round."""
    signed(roster, word, fault)
    here = (word.charter, word.round) == (charter, round)
    require(here, fault, "a confirmation of another charter or round")


def certified(
    roster: Roster, charter: bytes, proof: m.RoundCertificate, signers: int
) -> tuple[bytes, bytes]:
    """(state digest, release digest) on which at least `signers` distinct silos agree.

    With t signers it is the state of the federation: two such certificates of different
    content would share an honest signer, and it states the end of a round once. With c+1,
    one of them is honest and has verified the sum.
    """
    for word in proof.confirmations:
        confirmation(roster, charter, proof.round, word, FaultyAggregator)
    contents = {word.content() for word in proof.confirmations}
    enough = len({word.silo for word in proof.confirmations}) >= signers
    few = f"its certificate of round {proof.round} has no quorum"
    require(enough and len(contents) == 1, FaultyAggregator, few)
    return contents.pop()
