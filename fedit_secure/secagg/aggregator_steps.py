"""The steps of the aggregator, in paper order; protocol.py says which state takes what.

Every message of a silo's has been found signed by it, and of this attempt, before it gets
here; only those that were asked get here, and only once a phase; and what turns out to be
bad is blamed on the sender unless a step says otherwise.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from fedit_secure.errors import FaultySilo, FaultySiloOrAggregator, QuorumLost
from fedit_secure.secagg import checks, fixed_point, masks, shares
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.checks import blame, expect, sign
from fedit_secure.secagg.keys import ExchangeKey, SigningKey
from fedit_secure.secagg.keystream import TAG_PRIME

Step = tuple[s.AggregatorState, tuple[m.Effect, ...]]


def open_attempt(session: s.Session, key: SigningKey, silos: Iterable[int]) -> Step:
    """Step 0: invite the silos that hold an update; every attempt begins with it."""
    where = (session.round, session.attempt, session.state_digest)
    offer, invited = sign(key, m.Offer(session.charter, *where)), frozenset(silos)
    return s.Gathering(session, key, invited), to_all(invited, offer)


def collect_advert(state: s.Gathering, advert: m.Advert) -> Step:
    """Take one advert; once all are in, seal U1."""
    checks.advert(advert, None)
    checks.keys_differ((*state.got.values(), advert))
    return took(state, advert.silo, advert)


def seal_adverts(state: s.Gathering) -> Step:
    """U1 is whoever advertised."""
    u1 = sign(state.key, m.AdvertSet(state.session.ctx, state.answers()))
    bound = state.session.bound(u1.key_set())
    return state.then(s.Sharing, state.got, u1, bound), to_all(state.got, u1)


def collect_bundle(state: s.Sharing, bundle: m.ShareBundle) -> Step:
    """Take one dealer's envelopes; once all are in, seal U2."""
    dealt, sealed = bundle.statement, dict(bundle.envelopes)
    u1 = tuple(sorted(state.asked))
    checks.statement(state.bound, dealt, u1)
    hashes = tuple(checks.envelope_hash(sealed.get(v, b"")) for v in u1)
    to = sorted([dealt.dealer, *(holder for holder, _ in bundle.envelopes)])
    whole = hashes == dealt.envelope_hashes and to == [*u1]
    expect(whole, "its envelopes aren't those of its statement")
    return took(state, dealt.dealer, bundle)


def seal_shares(state: s.Sharing) -> Step:
    """U2 is whoever dealt to all; each of them gets the envelopes addressed to it."""
    session, u2 = state.session, tuple(sorted(state.got))
    statements = tuple(bundle.statement for bundle in state.answers())
    mail, sends = {dealer: dict(state.got[dealer].envelopes) for dealer in u2}, []
    for holder in u2:
        sealed = tuple((d, mail[d][holder]) for d in u2 if d != holder)
        shown = m.ShareSet(session.ctx, state.bound.key_set, statements, sealed)
        sends.append(m.Send(holder, sign(state.key, shown)))
    bound = session.bound(state.bound.key_set, u2)
    total = np.zeros(session.params.length, np.uint32)
    after = state.then(s.Masking, u2, state.adverts, bound, statements, total)
    return after, tuple(sends)


def collect_upload(state: s.Masking, upload: m.MaskedUpload) -> Step:
    """Add one whole upload to the running sum and acknowledge it."""
    session, header, payload = state.session, upload.header, upload.payload
    checks.header(session, state.bound, header)
    same = checks.payload_digest(payload) == header.payload_digest
    expect(same, "its upload isn't what its header says")
    tag = int.from_bytes(payload[-8:], "little")
    expect(tag < TAG_PRIME, "its masked tag is no residue")
    fixed_point.add_packed(state.total, payload, session.params.ring_bits)
    ack = m.UploadAck(session.ctx, header.silo, header.signed_digest())
    state = replace(state, tag=(state.tag + tag) % TAG_PRIME)
    after, effects = took(state, header.silo, header)
    return after, (m.Send(header.silo, sign(state.key, ack)), *effects)


def seal_uploads(state: s.Masking) -> Step:
    """U3 is whoever's upload is whole; a later one is never added. A silo whose upload was
    cut off is asked too: it may have masked, and help the others."""
    u3 = sign(state.key, m.SurvivorSet(state.session.ctx, state.answers()))
    return state.then(s.Agreeing, state.asked, state, u3), to_all(state.asked, u3)


def collect_agreement(state: s.Agreeing, agreement: m.Agreement) -> Step:
    """Take one signature on U3 from a member of U2."""
    said = (*state.masking.bound[1:], *state.survivors.digests())
    right = replace(agreement, signature=b"") == m.Agreement(agreement.silo, *said)
    expect(right, "it agreed to other survivors than it was shown")
    return took(state, agreement.silo, agreement)


def seal_agreements(state: s.Agreeing) -> Step:
    """t signatures make U3 the only set that can ever be opened in this attempt."""
    quorum = m.AgreementSet(state.session.ctx, state.answers())
    what = (state.masking, tuple(sorted(state.masking.got)), quorum.agreements)
    return state.then(s.Revealing, state.got, *what), to_all(state.got, quorum)


def collect_reveal(state: s.Revealing, answer: m.Reveal) -> Step:
    """Take one silo's shares; as soon as t open every secret, publish the sum."""
    masking, given = state.masking, (answer.self_shares, answer.key_shares)
    due = shares.due(answer.silo, masking.asked, state.survivors)
    right = [[peer for peer, _ in pieces] for pieces in given] == due
    expect(right, "it revealed other shares than agreed")
    dealt = {statement.dealer: statement for statement in masking.statements}
    for kind, pieces in zip(("self", "key"), given, strict=True):
        for peer, piece in pieces:
            checks.share(masking.bound, dealt[peer], answer.silo, kind, piece)
    # One share a peer, of the only secret of it that may open.
    return took(state, answer.silo, dict(given[0] + given[1]))


def pieces_of(state: s.Revealing, silo: int) -> dict[int, bytes]:
    """The first t shares, by holder, of the one secret of this silo that may open."""
    found = {v: state.got[v][silo] for v in sorted(state.got) if silo in state.got[v]}
    return dict([*found.items()][: state.session.params.threshold])


def openable(state: s.Revealing) -> bool:
    """Whether t shares of every secret that is due are there."""
    t = state.session.params.threshold
    return all(len(pieces_of(state, silo)) == t for silo in state.masking.asked)


def open_sum(state: s.Revealing) -> Step:
    """Step 6: recover one secret per silo, take the masks off, publish sum and tag.

    Every share was checked against its commitment, so a secret that comes out wrong is
    its dealer's fault.
    """
    session, masking, u3 = state.session, state.masking, state.survivors
    adverts = {advert.silo: advert for advert in masking.adverts.adverts}
    params, bound, streams = session.params, masking.bound, []
    for silo in sorted(masking.asked):
        with blame(FaultySilo, session.roster.name(silo)):
            secret = shares.combine(pieces_of(state, silo), params.threshold)
            if silo in u3:
                opened = shares.secret_commitment(session.ctx, silo, secret)
                right = opened == adverts[silo].self_commitment
                expect(right, "its shares don't open its self-mask seed")
                streams.append(masks.self_stream(secret, bound, -1))
                continue
            key = ExchangeKey.from_bytes(secret)
            right = key.public == adverts[silo].mask_key
            expect(right, "its shares don't open its mask key")
        # What the dropped silo would have added cancels what they did.
        half = partial(masks.pair_stream, key, bound, silo)
        streams += [half(peer, adverts[peer].mask_key) for peer in u3]
    total = masking.total.view(np.int32)  # signed, in the memory that it has

    lift = partial(fixed_point.lift_signed, ring_bits=params.ring_bits)
    tag = masking.tag + masks.add_streams(
        masking.total, streams, lambda here, ring: np.copyto(total[here], lift(ring))
    )
    with blame(FaultySiloOrAggregator, "any contributor"):
        fixed_point.check_sum(total, params, len(u3))
    what = (session.ctx, bound.key_set, u3, total, tag % TAG_PRIME, state.agreements)
    out = sign(state.key, m.PublishedSum(*what))
    everyone = frozenset(session.roster.silos)
    return s.Published(session, state.key, everyone, out), to_all(everyone, out)


def collect_confirmation(state: s.Published, word: m.Confirmation) -> Step:
    """Take one silo's word on the next state; t equal ones certify it for everybody, also
    for those that the round isn't drawn for."""
    session, said = state.session, (*state.got.values(), word)
    equal = tuple(c for c in said if c.content() == word.content())
    shown = m.RoundCertificate(session.round, equal)
    if len(equal) == session.params.threshold:
        return s.Certified(shown), to_all(range(len(session.roster.members)), shown)
    after, effects = took(state, word.silo, word)
    if len(equal) == session.params.corrupt + 1 and word.release_digest:
        # One of them is honest: silos that can't check the tag themselves may follow it.
        effects = to_all(state.waiting - {word.silo}, shown)
    return after, effects


def lose_quorum(state: s.Published) -> Step:
    """No content has t signatures, and nobody is left to wait for."""
    n, t = len(state.got), state.session.params.threshold
    raise QuorumLost(f"round {state.session.round}: no {t} of {n} words are equal")


def collect_void(state: s.Voiding, word: m.VoidStatement) -> Step:
    """t of them prove that fewer than t silos can ever reveal: the updates are free."""
    if len(state.got) + 1 < state.session.params.threshold:
        return took(state, word.silo, word)
    proof = m.VoidCertificate(state.session.ctx, (*state.answers(), word))
    return s.Ended(state.reason, free=True), to_all(state.asked, proof)


def end_voiding(state: s.Voiding) -> Step:
    """Too few silos closed the attempt in time."""
    return s.Ended(state.reason, free=False), ()


def lose(state: s.Phase, gone: m.Lost | m.VoidStatement) -> Step:
    """A silo is gone, or has closed the attempt: nobody waits for it any more. But it may
    still confirm what others verified, and close the attempt once it's back."""
    if isinstance(state, s.Published | s.Voiding):
        return state, ()
    got = dict(state.got)
    if isinstance(state, s.Gathering | s.Sharing):
        got.pop(gone.silo, None)  # before Mask it costs nothing to leave it out
    return advance(replace(state, gone=state.gone | {gone.silo}, got=got))


def move_on(state: s.Phase, deadline: m.Deadline) -> Step:
    """Go on with what has arrived."""
    return advance(replace(state, gone=state.gone | state.waiting))


def ignore(state: s.AggregatorState, message: m.Message) -> Step:
    """What came too late is never added and never answered."""
    return state, ()


def took(state: s.Phase, silo: int, answer: Any) -> Step:
    """The silo has answered; if it was given up, it is back."""
    got = {**state.got, silo: answer}
    return advance(replace(state, gone=state.gone - {silo}, got=got))


def advance(state: s.Phase) -> Step:
    """Seal the phase if nobody is left to wait for, or if enough was revealed. Without
    enough answers the attempt is over: for free before Mask, else once t silos closed it."""
    kind, n, params = type(state), len(state.got), state.session.params
    least = {s.Agreeing: params.threshold, s.Published: 0, s.Voiding: 0}
    opens = isinstance(state, s.Revealing) and openable(state)
    if state.waiting and not opens:
        return state, ()
    if opens or (n >= least.get(kind, params.minimum) and kind is not s.Revealing):
        return PHASES[kind][2](state)
    reason = f"only {n} silos answered in time while {kind.__name__.lower()}"
    if isinstance(state, s.Gathering | s.Sharing):
        return s.Ended(reason, free=True), ()
    request = sign(state.key, m.VoidRequest(state.session.ctx))
    who = frozenset(state.session.roster.silos)
    return s.Voiding(state.session, state.key, who, reason), to_all(who, request)


def to_all(silos: Iterable[int], message: m.Sent) -> tuple[m.Effect, ...]:
    """One message to each of them."""
    return tuple(m.Send(silo, message) for silo in sorted(silos))


# Each phase: what it takes, how it takes one, and how it ends once it has enough.
PHASES: dict[type, tuple[type, Callable[..., Step], Callable[..., Step]]] = {
    s.Gathering: (m.Advert, collect_advert, seal_adverts),
    s.Sharing: (m.ShareBundle, collect_bundle, seal_shares),
    s.Masking: (m.MaskedUpload, collect_upload, seal_uploads),
    s.Agreeing: (m.Agreement, collect_agreement, seal_agreements),
    s.Revealing: (m.Reveal, collect_reveal, open_sum),
    s.Published: (m.Confirmation, collect_confirmation, lose_quorum),
    s.Voiding: (m.VoidStatement, collect_void, end_voiding),
}
