"""The steps of the aggregator, in paper order; protocol.py says which state takes what.

Every message of a silo's has been found signed by it, and of this attempt, before it gets
here; only those that were asked get here, and only once a phase.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from fedit_secure.errors import FaultySiloOrAggregator as FaultySiloOr
from fedit_secure.errors import QuorumLost
from fedit_secure.secagg import checks, fixed_point, masks, shares
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.checks import require, sign
from fedit_secure.secagg.keys import ExchangeKey, SigningKey
from fedit_secure.secagg.silo_steps import shares_due
from fedit_secure.secagg.tag import PRIME

AggregatorStep = tuple[s.AggregatorState, tuple[m.Effect, ...]]


def open_attempt(
    session: s.Session, key: SigningKey, silos: Iterable[int]
) -> AggregatorStep:
    """Invite the silos that hold an update; the first message of every attempt."""
    where = (session.round, session.attempt, session.state_digest)
    offer, invited = sign(key, m.Offer(session.charter, *where)), frozenset(silos)
    state = s.Gathering(session, key, invited, frozenset())
    return state, to_all(invited, offer)


def collect_advert(state: s.Gathering, advert: m.Advert) -> AggregatorStep:
    """Take one advert; once all are in, seal U1."""
    checks.advert_keys(state.session, advert)
    fault = checks.faulty(state.session, advert.silo)
    checks.keys_differ((*state.got.values(), advert), fault)
    return took(state, advert.silo, advert)


def seal_adverts(state: s.Gathering) -> AggregatorStep:
    """U1 is whoever advertised."""
    adverts = tuple(state.got[silo] for silo in sorted(state.got))
    u1 = sign(state.key, m.AdvertSet(state.session.ctx, adverts))
    return s.Sharing(*state.then(state.got), u1), to_all(state.got, u1)


def collect_bundle(state: s.Sharing, bundle: m.ShareBundle) -> AggregatorStep:
    """Take one dealer's envelopes; once all are in, seal U2."""
    dealt, sealed = bundle.statement, dict(bundle.envelopes)
    fault = checks.faulty(state.session, dealt.dealer)
    checks.bound_to(state.session.bound(state.adverts.key_set()), dealt, fault)
    u1 = tuple(advert.silo for advert in state.adverts.adverts)
    checks.statement(state.session, dealt, u1)
    hashes = {v: checks.envelope_hash(x) for v, x in sealed.items()}
    promised = dict(zip(u1, dealt.envelope_hashes, strict=True))
    whole = {**hashes, dealt.dealer: b""} == promised and dealt.dealer not in hashes
    require(whole, fault, "its envelopes aren't those of its statement")
    return took(state, dealt.dealer, bundle)


def seal_shares(state: s.Sharing) -> AggregatorStep:
    """U2 is whoever dealt to all; each of them gets the envelopes addressed to it."""
    session, u2 = state.session, sorted(state.got)
    bound = session.bound(state.adverts.key_set(), tuple(u2))
    statements = {dealer: state.got[dealer].statement for dealer in u2}
    mail = {dealer: dict(state.got[dealer].envelopes) for dealer in u2}
    sends = []
    for holder in u2:
        sealed = tuple((d, mail[d][holder]) for d in u2 if d != holder)
        where = (session.ctx, bound.key_set, tuple(statements.values()))
        sends.append(m.Send(holder, sign(state.key, m.ShareSet(*where, sealed))))
    total = np.zeros(session.params.length, np.uint32)
    common = (*state.then(u2), state.adverts, statements, bound)
    return s.Masking(*common, total), tuple(sends)


def collect_upload(state: s.Masking, upload: m.MaskedUpload) -> AggregatorStep:
    """Add one whole upload to the running sum and acknowledge it."""
    session, header, payload = state.session, upload.header, upload.payload
    fault = checks.faulty(session, header.silo)
    checks.header(session, header)
    checks.bound_to(state.bound, header, fault)
    same = checks.payload_digest(payload) == header.payload_digest
    whole = same and len(payload) == header.length
    require(whole, fault, "its upload isn't what its header says")
    tag = int.from_bytes(payload[-8:], "little")
    require(tag < PRIME, fault, "its masked tag is no residue")
    length, bits = session.params.length, session.params.ring_bits
    ring = fixed_point.unpack(payload[:-8], length, bits)
    np.add(state.total, ring, out=state.total)
    ack = m.UploadAck(session.ctx, header.silo, header.signed_digest())
    state = replace(state, tag=(state.tag + tag) % PRIME)
    after, effects = took(state, header.silo, header)
    return after, (m.Send(header.silo, sign(state.key, ack)), *effects)


def seal_uploads(state: s.Masking) -> AggregatorStep:
    """U3 is whoever's upload is whole; a later one is never added. A silo whose upload was
    cut off is asked too: it may have masked, and help the others."""
    headers = tuple(state.got[silo] for silo in sorted(state.got))
    u3 = sign(state.key, m.SurvivorSet(state.session.ctx, headers))
    return s.Agreeing(*state.then(state.asked), state, u3), to_all(state.asked, u3)


def collect_agreement(state: s.Agreeing, agreement: m.Agreement) -> AggregatorStep:
    """Take one signature on U3 from a member of U2."""
    u3 = state.survivors
    content = (*state.masking.bound[1:], m.silo_set(u3.silos()), u3.headers_digest())
    right, fault = (
        agreement.content() == content,
        checks.faulty(state.session, agreement.silo),
    )
    require(right, fault, "it agreed to other survivors than it was shown")
    return took(state, agreement.silo, agreement)


def seal_agreements(state: s.Agreeing) -> AggregatorStep:
    """t signatures make U3 the only set that can ever be opened in this attempt."""
    agreements = tuple(state.got.values())
    quorum = m.AgreementSet(state.session.ctx, agreements)
    common = (*state.then(state.got), state.masking, state.survivors.silos())
    return s.Revealing(*common, agreements), to_all(state.got, quorum)


def collect_reveal(state: s.Revealing, answer: m.Reveal) -> AggregatorStep:
    """Take one silo's shares; as soon as t open every secret, publish the sum."""
    masking, fault = state.masking, checks.faulty(state.session, answer.silo)
    given = (answer.self_shares, answer.key_shares)
    due = shares_due(answer.silo, masking.asked, state.survivors)
    right = tuple([peer for peer, _ in pieces] for pieces in given) == due
    require(right, fault, "it revealed other shares than agreed")
    for kind, pieces in zip(("self", "key"), given, strict=True):
        for peer, piece in pieces:
            dealt = masking.statements[peer]
            checks.share(masking.bound, dealt, answer.silo, kind, piece, fault)
    # One share a peer, of the only secret of it that may open.
    return took(state, answer.silo, dict(given[0] + given[1]))


def _pieces(state: s.Revealing, silo: int) -> dict[int, bytes]:
    """The first t shares, by holder, of the one secret of this silo that may open."""
    found = {v: given[silo] for v, given in sorted(state.got.items()) if silo in given}
    return dict([*found.items()][: state.session.params.threshold])


def open_sum(state: s.Revealing) -> AggregatorStep:
    """Step 6: recover one secret per silo, take the masks off, publish sum and tag.

    Every share was checked against its commitment, so a secret that comes out wrong is
    its dealer's fault.
    """
    session, masking, u3 = state.session, state.masking, state.survivors
    adverts = {advert.silo: advert for advert in masking.adverts.adverts}
    streams = []
    for silo in sorted(masking.asked):
        fault = checks.faulty(session, silo)
        try:
            secret = shares.combine(_pieces(state, silo), session.params.threshold)
        except ValueError as error:
            raise fault(str(error)) from None
        if silo in u3:
            commitment = shares.secret_commitment(session.ctx, silo, secret)
            right = commitment == adverts[silo].self_commitment
            require(right, fault, "its shares don't open its self-mask seed")
            streams.append(masks.self_stream(secret, masking.bound, -1))
            continue
        key = ExchangeKey.from_bytes(secret)
        right = key.public == adverts[silo].mask_key
        require(right, fault, "its shares don't open its mask key")
        for peer in u3:  # what the dropped silo would have added cancels what they did
            public = adverts[peer].mask_key
            streams.append(masks.pair_stream(key, public, masking.bound, silo, peer))
    tag = (masking.tag + masks.add_streams(masking.total, streams)) % PRIME
    total = fixed_point.lift_signed(masking.total, session.params.ring_bits)
    try:
        fixed_point.check_magnitude(total, len(u3) * session.params.magnitude)
    except ValueError as error:
        raise FaultySiloOr("any contributor", str(error)) from None
    what = (session.ctx, masking.bound.key_set, u3, total, tag, state.agreements)
    out = sign(state.key, m.PublishedSum(*what))
    everyone = frozenset(range(session.params.silos))
    after = s.Published(session, state.key, everyone, frozenset(), out)
    return after, (m.Release(out),)


def collect_confirmation(state: s.Published, word: m.Confirmation) -> AggregatorStep:
    """Take one silo's word on the next state; t equal ones certify it for everybody."""
    params, said = state.session.params, (*state.got.values(), word)
    equal = tuple(c for c in said if c.content() == word.content())
    shown = m.RoundCertificate(state.session.round, equal)
    if len(equal) == params.threshold:
        return s.Certified(shown), to_all(range(params.silos), shown)
    after, effects = took(state, word.silo, word)
    if len(equal) == params.corrupt + 1 and word.release_digest:
        # One of them is honest: silos that can't check the tag themselves may follow it.
        return after, to_all(state.waiting - {word.silo}, shown)
    return after, effects


def collect_void(state: s.Voiding, word: m.VoidStatement) -> AggregatorStep:
    """t of them prove that fewer than t silos can ever reveal: the updates are free."""
    got = {said.silo: said for said in (*state.statements, word)}  # a repeat is one
    statements = tuple(got.values())
    if len(got) < state.session.params.threshold:
        return replace(state, statements=statements), ()
    proof = m.VoidCertificate(state.session.ctx, statements)
    return s.Ended(state.reason, free=True), to_all(
        range(len(state.session.roster)), proof
    )


def end_voiding(state: s.Voiding, deadline: m.Deadline) -> AggregatorStep:
    """Too few silos closed the attempt in time."""
    return s.Ended(state.reason, free=False), ()


def lose(state: s.Phase, gone: m.Lost | m.VoidStatement) -> AggregatorStep:
    """A silo is gone, or has closed the attempt: nobody waits for it any more."""
    got = dict(state.got)
    if isinstance(state, s.Gathering | s.Sharing):
        got.pop(gone.silo, None)  # before Mask it costs nothing to leave it out
    return _advance(replace(state, gone=state.gone | {gone.silo}, got=got))


def move_on(state: s.Phase, deadline: m.Deadline) -> AggregatorStep:
    """Go on with what has arrived."""
    return _advance(replace(state, gone=state.gone | state.waiting))


def ignore(state: s.AggregatorState, message: m.Message) -> AggregatorStep:
    """What came too late is never added and never answered."""
    return state, ()


def took(state: s.Phase, silo: int, answer: Any) -> AggregatorStep:
    """The silo has answered; if it was given up, it is back."""
    got = {**state.got, silo: answer}
    return _advance(replace(state, gone=state.gone - {silo}, got=got))


def _advance(state: s.Phase) -> AggregatorStep:
    """Seal the phase if nobody is left to wait for. Without enough answers the attempt is
    over: for free before Mask, else once t silos have closed it."""
    params, n = state.session.params, len(state.got)
    if isinstance(state, s.Revealing) and all(
        len(_pieces(state, silo)) == params.threshold for silo in state.masking.asked
    ):
        return open_sum(state)
    if state.waiting:
        return state, ()
    if isinstance(state, s.Published):
        raise QuorumLost(
            f"round {state.session.round}: no {params.threshold} of {n} words are equal"
        )
    least = params.threshold if isinstance(state, s.Agreeing) else params.minimum
    if n >= least and type(state) in SEAL:
        return SEAL[type(state)](state)
    reason = f"only {n} silos answered in time while {type(state).__name__.lower()}"
    if isinstance(state, s.Gathering | s.Sharing):
        return s.Ended(reason, free=True), ()
    request = sign(state.key, m.VoidRequest(state.session.ctx))
    return s.Voiding(state.session, reason), to_all(range(params.silos), request)


SEAL: dict[type, Callable[..., AggregatorStep]] = {
    s.Gathering: seal_adverts,
    s.Sharing: seal_shares,
    s.Masking: seal_uploads,
    s.Agreeing: seal_agreements,
}


def to_all(silos: Iterable[int], message: m.Sent) -> tuple[m.Effect, ...]:
    """One message to each of them."""
    return tuple(m.Send(silo, message) for silo in sorted(silos))
