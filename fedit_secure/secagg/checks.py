"""Every check of a release, in the order of its steps. Each raises, and names the suspect.

What no honest party sends is `Bad`, and `blame` makes an error of it that says who sent
it: `FaultyAggregator` where a silo looks at what the aggregator showed it and an honest one
would have refused; `FaultySilo` where the suspect's own signature proves it;
`FaultySiloOrAggregator` where it may be either.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from fedit_secure.errors import FaultyAggregator, FaultySilo, ProtocolError
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import shares
from fedit_secure.secagg.envelope import Letter, open_
from fedit_secure.secagg.keys import Bad, BadSignature, SigningKey, check_public, verify
from fedit_secure.secagg.params import Roster, SecAggParams
from fedit_secure.secagg.states import Agreed, Session, Shared
from fedit_secure.secagg.transcript import Blob, Bound, Signed, Silos, digest

Message = TypeVar("Message", bound=Signed)


def expect(holds: bool, what: str, fault: type[Exception] = Bad) -> None:
    """Raises unless it holds; if Bad, the `blame` around it says whose doing it is."""
    if not holds:
        raise fault(what)


@contextmanager
def blame(fault: Callable[..., ProtocolError], *whom: str) -> Iterator[None]:
    """What turns out to be bad in here is raised as this fault of theirs."""
    try:
        yield
    except Bad as bad:
        raise fault(*whom, str(bad)) from None


# ---------------------------------------------------------------------------- signatures


def sign(key: SigningKey, message: Message) -> Message:
    """The message with its signature."""
    return replace(message, signature=key.sign(message.signed_digest()))


def signed(roster: Roster, message: Any) -> None:
    """The silo that the message names takes part in the round, and has signed it."""
    expect(message.silo in roster.silos, f"no silo has number {message.silo} here")
    _verify(roster.members[message.silo].verify_key, message)


def by_aggregator(session: Session, message: Any) -> None:
    """The aggregator signed the message, and it is of this attempt."""
    with blame(FaultyAggregator):
        _verify(session.roster.aggregator_key, message)
        here = same(session, message, "ctx")
        expect(here, f"its {type(message).__name__} is of another attempt")


def same(ours: Session | Bound, message: Any, *names: str) -> bool:
    """Whether the message says the same as we on these fields, where it has them."""
    said = ((getattr(ours, n), getattr(message, n, None)) for n in names)
    return all(theirs is None or theirs == mine for mine, theirs in said)


def _verify(public: bytes, message: Any) -> None:
    try:
        verify(public, message.signed_digest(), message.signature)
    except BadSignature:
        raise Bad(f"a wrong signature on {type(message).__name__}") from None


# ------------------------------------------------------------------ sets, keys and shares


def shown(session: Session, entries: Sequence[Any], own: Any, name: str) -> Silos:
    """The silos of a set as the aggregator shows it: sorted, no twins, large enough; each
    entry is of this attempt and signed by its silo, and the own one as it was sent."""
    silos, least = tuple(entry.silo for entry in entries), session.params.minimum
    expect(list(silos) == sorted(set(silos)), f"{name} is unsorted or has a twin")
    expect(len(silos) >= least, f"{name} is below the minimum of {least} silos")
    for entry in entries:
        signed(session.roster, entry)
        expect(entry.ctx == session.ctx, f"{name} has an entry of another attempt")
        altered = entry.silo == own.silo and entry != own
        expect(not altered, f"it altered this silo's own {type(own).__name__}")
    return silos


def advert(advert: m.Advert, known: m.LedgerHead | None) -> None:
    """Its keys are canonical and of high order; and a privacy ledger only grows: its head
    never goes back, and never forks."""
    check_public(advert.mask_key)
    check_public(advert.envelope_key)
    if (head := advert.ledger_head) and known is not None:
        expect(head.population == known.population, "another population's ledger")
        expect(head.sequence >= known.sequence, "its ledger went back")
        expect(head.sequence > known.sequence or head == known, "its ledger has forked")


def keys_differ(adverts: Iterable[m.Advert]) -> None:
    """No key stands twice: two silos with one key would share masks that cancel."""
    keys = [key for a in adverts for key in (a.mask_key, a.envelope_key)]
    expect(len(set(keys)) == len(keys), "a key stands twice among the adverts")


def bound_to(bound: Bound, message: Any) -> None:
    """It was made for this K and, where it names one, this U2."""
    expect(same(bound, message, "key_set", "dealers_digest"), "it's for other silos")


def statement(bound: Bound, dealt: m.ShareStatement, u1: Silos) -> None:
    """A dealer's statement is for this K, and deals to all of U1."""
    bound_to(bound, dealt)
    lists = (dealt.envelope_hashes, dealt.self_commitments, dealt.key_commitments)
    whole = dealt.holders == u1 and all(len(x) == len(u1) for x in lists)
    expect(whole, "it dealt to others than U1")


def envelope_hash(sealed: bytes) -> bytes:
    """What a dealer's statement says of an envelope; nothing of none, to itself."""
    return digest("fedit/envelope/v1", sealed) if sealed else b""


def share(bound: Bound, dealt: m.ShareStatement, v: int, of: str, piece: bytes) -> None:
    """Holder v's share of "self" or "key" is the one that its dealer committed to."""
    column = dealt.self_commitments if of == "self" else dealt.key_commitments
    promised = column[dealt.holders.index(v)]
    given = shares.share_commitment(bound, dealt.dealer, v, of, piece)
    expect(given == promised, "a share misses the dealer's commitment")


def letters(state: Shared, u2: m.ShareSet, bound: Bound) -> dict[int, Letter]:
    """The letter of every dealer in U2, each held to what its dealer signed."""
    session, me = state.start.session, state.start.me.silo
    adverts = {advert.silo: advert for advert in state.adverts.adverts}
    others = [dealt for dealt in u2.statements if dealt.dealer != me]
    whole = [dealer for dealer, _ in u2.envelopes] == [dealt.dealer for dealt in others]
    expect(whole, "it withheld or doubled an envelope of U2")
    held, own = {me: state.letter}, state.secrets.envelope_key
    for dealt, (dealer, sealed) in zip(others, u2.envelopes, strict=True):
        i, theirs = dealt.holders.index(me), adverts[dealer]
        expect(envelope_hash(sealed) == dealt.envelope_hashes[i], "an altered envelope")
        with blame(FaultySilo, session.roster.name(dealer)):
            letter = open_(own, bound, me, dealer, theirs.envelope_key, sealed)
            share(bound, dealt, me, "self", letter.self_share)
            share(bound, dealt, me, "key", letter.key_share)
            part = (session.ctx, dealer, letter.group_contribution)
            right = shares.secret_commitment(*part) == theirs.group_commitment
            expect(right, "its group contribution misses its commitment")
        held[dealer] = letter
    return held


# ---------------------------------------------------------------- uploads and the release


def payload_digest(payload: Blob) -> bytes:
    """What an upload header says of the bytes that follow it."""
    return digest("fedit/payload/v1", payload)


def header(session: Session, bound: Bound, header: m.UploadHeader) -> None:
    """An upload's header is for this K and U2, and has the charter's length."""
    bound_to(bound, header)
    expect(header.length == session.params.payload_bytes, "an upload of another length")


def quorum(state: Agreed, said: Sequence[m.Agreement]) -> None:
    """t distinct members of U2 signed the very content that we signed."""
    session, own = state.start.session, state.agreement
    for agreement in said:
        signed(session.roster, agreement)
        equal = replace(agreement, silo=own.silo, signature=own.signature) == own
        expect(equal, "its quorum agreed to others")
    signers, t = {agreement.silo for agreement in said}, session.params.threshold
    sound = len(signers) == len(said) and signers <= state.masked.letters.keys()
    expect(sound, "its quorum has a twin, or one outside U2")
    expect(len(signers) >= t, f"its quorum has {len(signers)} of {t} signatures")


# ------------------------------------------------------- statements that outlive attempts


def void_certificate(who: Roster, size: SecAggParams, proof: m.VoidCertificate) -> None:
    """t distinct silos signed that they closed this attempt."""
    with blame(FaultyAggregator):
        for word in proof.statements:
            signed(who, word)
            expect(word.ctx == proof.ctx, "its void certificate is of two attempts")
        enough = len({word.silo for word in proof.statements}) >= size.threshold
        expect(enough, "its void certificate has too few signers")


def certified(
    roster: Roster, charter: bytes, proof: m.RoundCertificate, signers: int
) -> tuple[bytes, bytes]:
    """(state digest, release digest) on which at least `signers` distinct silos agree.

    With t signers it is the state of the federation: two such certificates of different
    content would share an honest signer, and it states the end of a round once. With c+1,
    one of them is honest and has verified the sum.
    """
    said = proof.confirmations
    with blame(FaultyAggregator):
        for word in said:
            signed(roster, word)
            here = (word.charter, word.round) == (charter, proof.round)
            expect(here, "its certificate is of another charter or round")
        contents = {word.content() for word in said}
        enough = len({word.silo for word in said}) >= signers and len(contents) == 1
        expect(enough, f"its certificate of round {proof.round} has no quorum")
    return contents.pop()
