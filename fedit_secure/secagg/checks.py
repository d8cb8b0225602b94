"""Every check of protocol.py, in the order of its steps. Each raises, and names the suspect.

A fault is what to raise: `FaultyAggregator` where a silo checks what the aggregator showed
it and the aggregator should have refused it; `FaultySilo` where the suspect's own signature
proves it; `FaultySiloOrAggregator` where it may be either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedit_secure.errors import FaultyAggregator, FaultySilo, ProtocolError
from fedit_secure.errors import FaultySiloOrAggregator as FaultySiloOr
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import shares
from fedit_secure.secagg.envelope import BadEnvelope, Letter, open_
from fedit_secure.secagg.keys import (
    BadPublicKey,
    BadSignature,
    SigningKey,
    check_public,
    verify,
)
from fedit_secure.secagg.params import Roster, SecAggParams
from fedit_secure.secagg.states import Session, Shared
from fedit_secure.secagg.transcript import Signed, digest

Fault = Callable[[str], ProtocolError]
Message = TypeVar("Message", bound=Signed)


def require(holds: bool, fault: Fault, what: str) -> None:
    """Raises `fault(what)` unless it holds."""
    if not holds:
        raise fault(what)


def faulty(session: Session, silo: int) -> Fault:
    """The fault that blames this silo. Raises ProtocolError if it isn't rostered."""
    _rostered(session.roster, silo, ProtocolError)
    name = session.roster.name(silo)
    return lambda what: FaultySilo(name, what)


def _either(name: str) -> Fault:
    return lambda what: FaultySiloOr(name, what)


# ---------------------------------------------------------------------------- signatures


def sign(key: SigningKey, message: Message) -> Message:
    """The message with its signature."""
    return replace(message, signature=key.sign(message.signed_digest()))


def signed(session: Session, message: Any, silo: int, fault: Fault) -> None:
    """The rostered silo signed the message."""
    _rostered(session.roster, silo, fault)
    _signature(session.roster.members[silo].verify_key, message, fault)


def by_aggregator(session: Session, message: Any) -> None:
    """The aggregator signed the message, and it is of this attempt."""
    _signature(session.roster.aggregator_key, message, FaultyAggregator)
    here = getattr(message, "ctx", session.ctx) == session.ctx
    name = type(message).__name__
    require(here, FaultyAggregator, f"its {name} is of another attempt")


def _rostered(roster: Roster, silo: int, fault: Fault) -> None:
    require(0 <= silo < len(roster), fault, f"silo number {silo} isn't in the roster")


def _signature(public: bytes, message: Any, fault: Fault) -> None:
    try:
        verify(public, message.signed_digest(), message.signature)
    except BadSignature:
        raise fault(f"a wrong signature on {type(message).__name__}") from None


# ------------------------------------------------------------------ sets, keys and shares


def same_fields(message: Any, session: Session, names: str) -> bool:
    """Whether message and session agree on the fields of these names."""
    return all(getattr(message, n) == getattr(session, n) for n in names.split())


def shown_set(session: Session, silos: Iterable[int], name: str) -> tuple[int, ...]:
    """A set as the aggregator shows it: rostered, sorted, no twins, large enough."""
    shown, least = tuple(silos), session.params.minimum
    for silo in shown:
        _rostered(session.roster, silo, FaultyAggregator)
    ordered = list(shown) == sorted(set(shown))
    require(ordered, FaultyAggregator, f"{name} is unsorted, or names a silo twice")
    few = f"{name} has {len(shown)} silos, fewer than the minimum of {least}"
    require(len(shown) >= least, FaultyAggregator, few)
    return shown


def advert(session: Session, advert: m.Advert, fault: Fault) -> None:
    """A rostered silo signed it for this attempt, and its keys are sound."""
    signed(session, advert, advert.silo, fault)
    require(advert.ctx == session.ctx, fault, "an advert of another attempt")
    try:
        check_public(advert.mask_key)
        check_public(advert.envelope_key)
    except BadPublicKey as error:
        raise faulty(session, advert.silo)(str(error)) from None


def keys_differ(session: Session, me: int, adverts: Sequence[m.Advert]) -> None:
    """No key stands twice: two silos with one key would share masks that cancel."""
    owner: dict[bytes, int] = {}
    for advert in sorted(adverts, key=lambda a: a.silo != me):  # the own one first
        name = session.roster.name(advert.silo)
        for key in (advert.mask_key, advert.envelope_key):
            copied = owner.setdefault(key, advert.silo) == me != advert.silo
            require(not copied, faulty(session, advert.silo), "it copied our key")
        twin = len({advert.mask_key, advert.envelope_key}) < 2 or any(
            owner[key] != advert.silo for key in (advert.mask_key, advert.envelope_key)
        )
        require(not twin, _either(name), "a key stands twice")


def ledger_head(session: Session, advert: m.Advert, known: m.LedgerHead | None) -> None:
    """A privacy ledger only grows: its head never goes back, and never forks."""
    head, fault = advert.ledger_head, faulty(session, advert.silo)
    if known is not None and known.population == head.population:
        back, fork = head.sequence < known.sequence, head.sequence == known.sequence
        require(not back, fault, "its privacy ledger went back")
        require(not fork or head == known, fault, "its privacy ledger has forked")


def statement(
    session: Session,
    dealt: m.ShareStatement,
    key_set: bytes,
    holders: tuple[int, ...],
    fault: Fault,
) -> None:
    """A dealer signed it, for this K and all of U1."""
    signed(session, dealt, dealt.dealer, fault)
    here = (dealt.ctx, dealt.key_set) == (session.ctx, key_set)
    name = session.roster.name(dealt.dealer)
    other = fault if fault is not FaultyAggregator else _either(name)
    require(here, other, "it dealt for another set of adverts")
    lists = (dealt.envelope_hashes, dealt.self_commitments, dealt.key_commitments)
    whole = all(len(x) == len(holders) for x in lists) and dealt.holders == holders
    require(whole, faulty(session, dealt.dealer), "it dealt to others than U1")


def relayed_statement(
    session: Session, dealt: m.ShareStatement, key_set: bytes, holders: tuple[int, ...]
) -> None:
    """As a silo sees it: the aggregator relayed what it should have checked."""
    statement(session, dealt, key_set, holders, FaultyAggregator)


def envelope_hashes(
    holders: tuple[int, ...], sealed: Mapping[int, bytes]
) -> tuple[bytes, ...]:
    """Per holder the hash of its envelope; b"" for the dealer itself."""
    label = "fedit/envelope/v1"
    return tuple(digest(label, sealed[v]) if v in sealed else b"" for v in holders)


def share(
    dealt: m.ShareStatement, holder: int, kind: str, piece: bytes, fault: Fault
) -> None:
    """A share is the one that its dealer committed to."""
    of = dealt.self_commitments if kind == "self" else dealt.key_commitments
    where = (dealt.ctx, dealt.key_set, dealt.dealer, holder, kind)
    right = of[dealt.holders.index(holder)] == shares.share_commitment(*where, piece)
    require(right, fault, "a share misses the dealer's commitment")


def open_envelopes(state: Shared, u2: m.ShareSet) -> dict[int, Letter]:
    """The letter of every other dealer in U2, each held to what its dealer signed."""
    session, me = state.start.session, state.start.me.silo
    adverts = {a.silo: a for a in state.adverts.adverts}
    mail = dict(u2.envelopes)
    others = [dealt for dealt in u2.statements if dealt.dealer != me]
    whole = [d for d, _ in u2.envelopes] == [dealt.dealer for dealt in others]
    require(whole, FaultyAggregator, "it withheld or doubled an envelope of U2")
    letters = {}
    for dealt in others:
        dealer, sealed = dealt.dealer, mail[dealt.dealer]
        promised = dealt.envelope_hashes[dealt.holders.index(me)]
        same = envelope_hashes((me,), {me: sealed}) == (promised,)
        require(same, FaultyAggregator, "it altered an envelope")
        fault = faulty(session, dealer)
        keys = (state.secrets.envelope_key, adverts[dealer].envelope_key)
        where = (session.charter, session.ctx, dealt.key_set)
        try:
            letter = Letter.unpack(open_(*keys, *where, dealer, me, sealed))
        except (BadEnvelope, BadPublicKey) as error:
            raise fault(str(error)) from None
        share(dealt, me, "self", letter.self_share, fault)
        share(dealt, me, "key", letter.key_share, fault)
        part = letter.group_contribution
        part = shares.secret_commitment(session.ctx, dealer, part)
        right = part == adverts[dealer].group_commitment
        require(right, fault, "its group contribution misses its commitment")
        letters[dealer] = letter
    return letters


# ---------------------------------------------------------------- uploads and the release


def payload_digest(payload: m.Blob | bytearray) -> bytes:
    """What an upload header says of the bytes that follow it."""
    return digest("fedit/payload/v1", memoryview(payload))


def header(
    session: Session, header: m.UploadHeader, key_set: bytes, u2: bytes, fault: Fault
) -> None:
    """A silo signed it, for this K and U2, with the charter's length."""
    signed(session, header, header.silo, fault)
    right = header.length == session.params.payload_bytes
    require(right, fault, "an upload of another length")
    bound = (header.ctx, header.key_set, header.dealers_digest)
    same, name = bound == (session.ctx, key_set, u2), session.roster.name(header.silo)
    require(same, _either(name), "it masked for another U2 or model")


def agreement_content(
    session: Session, key_set: bytes, u2: bytes, survivors: m.SurvivorSet
) -> tuple[bytes, ...]:
    """What every agreement on these survivors must say."""
    u3 = m.silo_set(survivors.silos())
    return (session.ctx, key_set, u2, u3, survivors.headers_digest())


def quorum(
    session: Session, shown: m.AgreementSet, own: m.Agreement, dealers: Sequence[int]
) -> None:
    """t distinct members of U2 signed the very content that we signed."""
    for agreement in shown.agreements:
        signed(session, agreement, agreement.silo, FaultyAggregator)
        name = session.roster.name(agreement.silo)
        same = agreement.content() == own.content()
        require(same, _either(name), "it agreed to others")
    signers, t = {a.silo for a in shown.agreements}, session.params.threshold
    sound = len(signers) == len(shown.agreements) and signers <= set(dealers)
    require(sound, FaultyAggregator, "its quorum has a twin, or one outside U2")
    few = f"its quorum has {len(signers)} of {t} signatures"
    require(len(signers) >= t, FaultyAggregator, few)


def sum_range(session: Session, total: NDArray[np.int32], silos: int) -> None:
    """Every coordinate is one that so many honest updates can reach."""
    reach = silos * session.params.magnitude
    inside = bool(total.min() >= -reach and total.max() <= reach)
    too_far = "the sum exceeds what so many updates can reach"
    require(inside, _either("any contributor"), too_far)


# ------------------------------------------------------- statements that outlive attempts


def void_certificate(
    roster: Roster, params: SecAggParams, proof: m.VoidCertificate
) -> None:
    """t distinct silos signed that they closed this attempt."""
    for word in proof.statements:
        _rostered(roster, word.silo, FaultyAggregator)
        _signature(roster.members[word.silo].verify_key, word, FaultyAggregator)
    one = {word.ctx for word in proof.statements} == {proof.ctx}
    signers = {word.silo for word in proof.statements}
    enough = one and len(signers) >= params.threshold
    require(enough, FaultyAggregator, "its void certificate has too few signers")


def confirmation(
    roster: Roster, charter: bytes, round: int, word: m.Confirmation
) -> None:
    """A rostered silo signed it for this round."""
    _rostered(roster, word.silo, FaultyAggregator)
    name = roster.name(word.silo)
    fault = _either(name)
    _signature(roster.members[word.silo].verify_key, word, fault)
    here = (word.charter, word.round) == (charter, round)
    require(here, fault, "its confirmation is of another charter or round")


def certified(
    roster: Roster, charter: bytes, proof: m.RoundCertificate, signers: int
) -> tuple[bytes, bytes]:
    """(state digest, release digest) on which at least `signers` distinct silos agree.

    With t signers it is the state of the federation: two such certificates of different
    content would share an honest signer, and it states the end of a round once. With c+1,
    one of them is honest and has verified the sum.
    """
    for word in proof.confirmations:
        confirmation(roster, charter, proof.round, word)
    contents = {word.content() for word in proof.confirmations}
    enough = len({word.silo for word in proof.confirmations}) >= signers
    few = f"its certificate of round {proof.round} has no quorum"
    require(enough and len(contents) == 1, FaultyAggregator, few)
    return contents.pop()
