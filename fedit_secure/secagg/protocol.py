"""One release in paper order: the steps of both roles, and the tables that order them.

Bonawitz et al., *Practical Secure Aggregation* (CCS 2017), active-adversary form, with
the bindings, blame and verifiable sum of docs/protocol.md. Every step is a pure function
of a frozen state, a message and (silos) a source of random bytes; it returns the next
state and the effects to perform, in order. A pair that no table holds is a
`ProtocolError`, so no message is answered twice.

Guarantees, whatever the aggregator does while at most `corrupt` silos help it: per attempt
it learns at most one sum, over at least `minimum` updates that start from one global
state. Not guaranteed: delivery, and that a silo's own input is honest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fedit_secure.errors import (
    AttemptFailed,
    FaultyAggregator,
    FaultySilo,
    ProtocolError,
    QuorumLost,
)
from fedit_secure.errors import FaultySiloOrAggregator as FaultySiloOr
from fedit_secure.secagg import checks, fixed_point, masks, shares
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.checks import require, sign
from fedit_secure.secagg.envelope import Letter, seal
from fedit_secure.secagg.keys import ExchangeKey, SigningKey
from fedit_secure.secagg.tag import PRIME, BadTag, TagKey

RandomBytes = Callable[[int], bytes]
SiloStep = tuple[s.SiloState, tuple[m.Effect, ...]]
AggregatorStep = tuple[s.AggregatorState, tuple[m.Effect, ...]]


# ======================================================================== the silo's steps


def advertise(state: s.Invited, offer: m.Offer, rand: RandomBytes) -> SiloStep:
    """Step 1: fresh single-use keys, commitments to b_u and g_u, and the ledger head."""
    session, me = state.session, state.me
    checks.by_aggregator(session, offer)
    require(
        checks.same_fields(offer, session, "charter round attempt state_digest"),
        FaultyAggregator,
        "its offer is for another charter, round, attempt or model",
    )
    ctx = session.ctx
    mask_key, envelope_key = (ExchangeKey.from_bytes(rand(32)) for _ in range(2))
    secrets = s.Secrets(rand(32), rand(32), mask_key, envelope_key)
    advert = m.Advert(
        me.silo,
        ctx,
        mask_key.public,
        envelope_key.public,
        self_commitment=shares.secret_commitment(ctx, me.silo, secrets.self_seed),
        group_commitment=shares.secret_commitment(
            ctx, me.silo, secrets.group_contribution
        ),
        ledger_head=state.head,
    )
    advert = sign(me.key, advert)
    fuse = m.Fuse("advertise", session.round, session.attempt, ctx)
    return s.Advertised(state, secrets, advert), (fuse, m.Send(None, advert))


def share(state: s.Advertised, u1: m.AdvertSet, rand: RandomBytes) -> SiloStep:
    """Step 2: deal shares of b_u and the mask key, sealed and committed to, to all of U1."""
    session, me = state.start.session, state.start.me
    checks.by_aggregator(session, u1)
    holders = checks.shown_set(session, (a.silo for a in u1.adverts), "U1")
    require(me.silo in holders, AttemptFailed, "this silo was left out of U1")
    for advert in u1.adverts:
        checks.advert(session, advert, FaultyAggregator)
        altered = advert.silo == me.silo and advert != state.advert
        require(not altered, FaultyAggregator, "it altered this silo's own advert")
        checks.ledger_head(session, advert, state.start.peer_heads.get(advert.silo))
    checks.keys_differ(session, me.silo, u1.adverts)
    ctx, key_set, t = session.ctx, u1.key_set(), session.params.threshold
    secrets = state.secrets
    of_seed = shares.split(secrets.self_seed, t, holders, rand)
    of_key = shares.split(secrets.mask_key.private_bytes(), t, holders, rand)
    sealed = {}
    for advert in u1.adverts:
        v = advert.silo
        if v != me.silo:
            letter = Letter(of_seed[v], of_key[v], secrets.group_contribution).pack()
            where = (session.charter, ctx, key_set)
            keys = (secrets.envelope_key, advert.envelope_key)
            sealed[v] = seal(*keys, *where, me.silo, v, letter)

    def commitments(kind: str, given: Mapping[int, bytes]) -> tuple[bytes, ...]:
        where = (ctx, key_set, me.silo)
        return tuple(
            shares.share_commitment(*where, v, kind, given[v]) for v in holders
        )

    statement = m.ShareStatement(
        me.silo,
        ctx,
        key_set,
        holders,
        envelope_hashes=checks.envelope_hashes(holders, sealed),
        self_commitments=commitments("self", of_seed),
        key_commitments=commitments("key", of_key),
    )
    statement = sign(me.key, statement)
    heads = tuple((a.silo, a.ledger_head) for a in u1.adverts)
    remember = m.Fuse("heads", session.round, session.attempt, ctx, heads=heads)
    own = (of_seed[me.silo], of_key[me.silo])
    bundle = m.ShareBundle(statement, tuple(sealed.items()))
    after = s.Shared(state.start, secrets, u1, statement, own)
    return after, (remember, m.Send(None, bundle))


def mask(state: s.Shared, u2: m.ShareSet, rand: RandomBytes) -> SiloStep:
    """Step 3: with a valid envelope from every other member of U2, mask and upload.

    b_u and both private keys are dropped here: from now on they exist in shares only.
    """
    start, session, me = state.start, state.start.session, state.start.me
    key_set, secrets = state.adverts.key_set(), state.secrets
    checks.by_aggregator(session, u2)
    dealers = checks.shown_set(session, (st.dealer for st in u2.statements), "U2")
    holders = tuple(a.silo for a in state.adverts.adverts)
    require(set(dealers) <= set(holders), FaultyAggregator, "U2 isn't a part of U1")
    require(me.silo in dealers, AttemptFailed, "this silo was left out of U2")
    for statement in u2.statements:
        checks.relayed_statement(session, statement, key_set, holders)
        altered = statement.dealer == me.silo and statement != state.statement
        require(not altered, FaultyAggregator, "it altered this silo's own statement")
    letters = checks.open_envelopes(state, u2)
    held = {d: (letter.self_share, letter.key_share) for d, letter in letters.items()}
    parts = {d: letter.group_contribution for d, letter in letters.items()}
    held[me.silo], parts[me.silo] = state.own_shares, secrets.group_contribution

    bound = (session.ctx, key_set, m.silo_set(dealers))
    public = {a.silo: a.mask_key for a in state.adverts.adverts}
    streams = [(masks.derive_self_seed(secrets.self_seed, *bound), 1)]
    for peer in dealers:
        if peer != me.silo:
            key = secrets.mask_key
            seed = _pair_seed(session, bound, key, public[peer], me.silo, peer)
            streams.append((seed, masks.pair_sign(me.silo, peer)))
    tag = _tag_key(session, bound, dealers, parts).tag(me.silo, start.update)
    vector = start.update.astype(np.uint32)
    tag = (tag + masks.add_streams(vector, streams)) % PRIME
    payload = bytearray(session.params.payload_bytes)
    payload[:-8] = fixed_point.pack(vector, session.params.ring_bits)
    payload[-8:] = tag.to_bytes(8, "little")
    what = (len(payload), checks.payload_digest(payload))
    header = sign(me.key, m.UploadHeader(me.silo, *bound, *what))
    fuse = m.Fuse(
        "mask", session.round, session.attempt, session.ctx, start.update_digest
    )
    start = replace(start, update=start.update[:0].copy())
    after = s.Masked(start, key_set, dealers, held, parts, header)
    return after, (fuse, m.Send(None, m.MaskedUpload(header, memoryview(payload))))


def note_ack(state: s.Masked, ack: m.UploadAck, rand: RandomBytes) -> SiloStep:
    """The aggregator's signed word that it holds our upload: dropping us now is proof."""
    checks.by_aggregator(state.start.session, ack)
    ours = (state.start.me.silo, state.header.signed_digest())
    right = (ack.silo, ack.header_digest) == ours
    require(right, FaultyAggregator, "it acknowledged what this silo never sent")
    return replace(state, acked=True), ()


def agree(state: s.Masked, survivors: m.SurvivorSet, rand: RandomBytes) -> SiloStep:
    """Step 4, the consistency check: sign the one set of survivors that we were shown."""
    session, me = state.start.session, state.start.me
    checks.by_aggregator(session, survivors)
    u3 = checks.shown_set(session, survivors.silos(), "U3")
    require(set(u3) <= set(state.dealers), FaultyAggregator, "U3 isn't a part of U2")
    u2 = m.silo_set(state.dealers)
    for header in survivors.headers:
        checks.header(session, header, state.key_set, u2, FaultyAggregator)
        altered = header.silo == me.silo and header != state.header
        require(not altered, FaultyAggregator, "it altered this silo's own header")
    dropped = me.silo not in u3 and state.acked
    require(not dropped, FaultyAggregator, "it left out an upload that it acknowledged")
    content = checks.agreement_content(session, state.key_set, u2, survivors)
    agreement = sign(me.key, m.Agreement(me.silo, *content))
    after = s.Agreed(state.start, state, u3, agreement)
    return after, (m.Send(None, agreement),)


def reveal(state: s.Agreed, quorum: m.AgreementSet, rand: RandomBytes) -> SiloStep:
    """Step 5: once t silos signed what we signed, give one share per peer, never two."""
    session, me, masked = state.start.session, state.start.me, state.masked
    checks.quorum(session, quorum, state.agreement, masked.dealers)
    due = _shares_due(me.silo, masked.dealers, state.survivors)
    answer = m.Reveal(
        me.silo,
        session.ctx,
        self_shares=tuple((peer, masked.shares[peer][0]) for peer in due["self"]),
        key_shares=tuple((peer, masked.shares[peer][1]) for peer in due["key"]),
    )
    answer = sign(me.key, answer)
    fuse = m.Fuse("reveal", session.round, session.attempt, session.ctx, record=answer)
    after = s.Revealed(state.start, replace(masked, shares={}), state.survivors)
    return after, (fuse, m.Send(None, answer))


def verify_sum(state: s.Revealed, out: m.PublishedSum, rand: RandomBytes) -> SiloStep:
    """Step 7, first half: the sum is over the agreed silos and carries their tag."""
    session, masked = state.start.session, state.masked
    checks.by_aggregator(session, out)
    agreed = (out.key_set, out.contributors) == (masked.key_set, state.survivors)
    require(agreed, FaultyAggregator, "it published a sum over others than agreed")
    shaped = out.total.shape == (session.params.length,) and out.total.dtype == np.int32
    require(shaped, FaultyAggregator, "it published a sum of another shape")
    checks.sum_range(session, out.total, len(out.contributors))
    bound = (session.ctx, masked.key_set, m.silo_set(masked.dealers))
    tag_key = _tag_key(session, bound, masked.dealers, masked.contributions)
    try:
        tag_key.check(out.total, out.tag, out.contributors)
    except BadTag as error:
        raise FaultySiloOr("any contributor", str(error)) from None
    return s.Verified(state.start, out), (m.Release(out),)


def confirm(state: s.Verified, new: m.StateApplied, rand: RandomBytes) -> SiloStep:
    """Step 7, second half: sign the state that applying the verified sum gave."""
    session, release = state.start.session, state.published.release_digest()
    fuse, statement = confirmation(
        state.start.me, session.charter, session.round, new.state_digest, release
    )
    return s.Confirmed(statement), (fuse, m.Send(None, statement))


def void(
    state: s.Voidable, cause: m.VoidRequest | m.Deadline, rand: RandomBytes
) -> SiloStep:
    """Close the attempt for ever and say so; every secret of it goes with the old state."""
    start = state if isinstance(state, s.Invited) else state.start
    session = start.session
    if isinstance(cause, m.VoidRequest):
        checks.by_aggregator(session, cause)
    fuse, statement = voided(start.me, session.round, session.attempt, session.ctx)
    return s.Voided(statement), (fuse, m.Send(None, statement))


SILO: dict[tuple[type, type], Callable[..., SiloStep]] = {
    (s.Invited, m.Offer): advertise,
    (s.Advertised, m.AdvertSet): share,
    (s.Shared, m.ShareSet): mask,
    (s.Masked, m.UploadAck): note_ack,
    (s.Masked, m.SurvivorSet): agree,
    (s.Agreed, m.AgreementSet): reveal,
    (s.Revealed, m.PublishedSum): verify_sum,
    (s.Verified, m.StateApplied): confirm,
}
for _state in (s.Invited, s.Advertised, s.Shared, s.Masked, s.Agreed):
    SILO[_state, m.VoidRequest] = SILO[_state, m.Deadline] = void


def silo_step(state: s.SiloState, message: m.Message, rand: RandomBytes) -> SiloStep:
    """One transition of a silo. Raises ProtocolError and its kinds that name a suspect."""
    step = SILO.get((type(state), type(message)))
    if step is None:
        names = type(state).__name__, type(message).__name__
        raise ProtocolError("a silo that is {} takes no {}".format(*names))
    return step(state, message, rand)


# ================================================================== the aggregator's steps


def open_attempt(
    session: s.Session, key: SigningKey, silos: Iterable[int]
) -> AggregatorStep:
    """Invite the silos that hold an update; the first message of every attempt."""
    where = (session.round, session.attempt, session.state_digest)
    offer, invited = sign(key, m.Offer(session.charter, *where)), frozenset(silos)
    return s.Gathering(session, key, invited), _to_all(invited, offer)


def collect_advert(state: s.Gathering, advert: m.Advert) -> AggregatorStep:
    """Take one advert; once all are in, seal U1."""
    checks.advert(state.session, advert, checks.faulty(state.session, advert.silo))
    waiting = _answered(state, advert.silo)
    return _advance(replace(state, waiting=waiting, adverts=(*state.adverts, advert)))


def seal_adverts(state: s.Gathering) -> AggregatorStep:
    """U1 is whoever advertised."""
    session, n = state.session, len(state.adverts)
    if n < session.params.minimum:
        return s.Ended(f"only {n} silos advertised", free=True), ()
    adverts = tuple(sorted(state.adverts, key=lambda a: a.silo))
    u1 = sign(state.key, m.AdvertSet(session.ctx, adverts))
    silos = frozenset(a.silo for a in adverts)
    return s.Sharing(session, state.key, u1, silos), _to_all(silos, u1)


def collect_bundle(state: s.Sharing, bundle: m.ShareBundle) -> AggregatorStep:
    """Take one dealer's envelopes; once all are in, seal U2."""
    statement, sealed = bundle.statement, dict(bundle.envelopes)
    holders = tuple(a.silo for a in state.adverts.adverts)
    fault = checks.faulty(state.session, statement.dealer)
    checks.statement(state.session, statement, state.adverts.key_set(), holders, fault)
    whole = set(sealed) == {*holders} - {statement.dealer} and (
        checks.envelope_hashes(holders, sealed) == statement.envelope_hashes
    )
    require(whole, fault, "its envelopes aren't those of its statement")
    waiting = _answered(state, statement.dealer)
    return _advance(replace(state, waiting=waiting, bundles=(*state.bundles, bundle)))


def seal_shares(state: s.Sharing) -> AggregatorStep:
    """U2 is whoever dealt to all; each of them gets the envelopes addressed to it."""
    session, key_set = state.session, state.adverts.key_set()
    mail = {b.statement.dealer: dict(b.envelopes) for b in state.bundles}
    if len(mail) < session.params.minimum:
        return s.Ended(f"only {len(mail)} silos dealt shares", free=True), ()
    dealt = sorted((b.statement for b in state.bundles), key=lambda st: st.dealer)
    sends = []
    for holder in sorted(mail):
        envelopes = tuple((d, mail[d][holder]) for d in sorted(mail) if d != holder)
        u2 = m.ShareSet(session.ctx, key_set, tuple(dealt), envelopes)
        sends.append(m.Send(holder, sign(state.key, u2)))
    total = np.zeros(session.params.length, np.uint32)
    common = (session, state.key, state.adverts, tuple(dealt))
    return s.Masking(*common, frozenset(mail), total), tuple(sends)


def collect_upload(state: s.Masking, upload: m.MaskedUpload) -> AggregatorStep:
    """Add one whole upload to the running sum and acknowledge it."""
    session, header, payload = state.session, upload.header, upload.payload
    fault = checks.faulty(session, header.silo)
    bound = (state.adverts.key_set(), m.silo_set(state.dealers))
    checks.header(session, header, *bound, fault)
    waiting = _answered(state, header.silo)
    same = checks.payload_digest(payload) == header.payload_digest
    whole = same and len(payload) == header.length
    require(whole, fault, "its upload isn't what its header says")
    tag = int.from_bytes(payload[-8:], "little")
    require(tag < PRIME, fault, "its masked tag is no residue")
    bits = session.params.ring_bits
    ring = fixed_point.unpack(payload[:-8], session.params.length, bits)
    np.add(state.total, ring, out=state.total)
    tag, headers = (state.tag + tag) % PRIME, (*state.headers, header)
    after = replace(state, waiting=waiting, tag=tag, headers=headers)
    ack = m.UploadAck(session.ctx, header.silo, header.signed_digest())
    after_all, effects = _advance(after)
    return after_all, (m.Send(header.silo, sign(state.key, ack)), *effects)


def seal_uploads(state: s.Masking) -> AggregatorStep:
    """U3 is whoever's upload is whole; a later one is never added."""
    session, n = state.session, len(state.headers)
    if n < session.params.minimum:
        return _void_all(state, f"only {n} silos uploaded")
    headers = tuple(sorted(state.headers, key=lambda h: h.silo))
    u3 = sign(state.key, m.SurvivorSet(session.ctx, headers))
    # A silo that masked but whose upload was cut off may still agree and help the others.
    return s.Agreeing(state, u3, frozenset(u3.silos())), _to_all(state.dealers, u3)


def collect_agreement(state: s.Agreeing, agreement: m.Agreement) -> AggregatorStep:
    """Take one signature on U3 from a member of U2."""
    masking, session = state.masking, state.masking.session
    fault = checks.faulty(session, agreement.silo)
    checks.signed(session, agreement, agreement.silo, fault)
    bound = (masking.adverts.key_set(), m.silo_set(masking.dealers))
    content = checks.agreement_content(session, *bound, state.survivors)
    right = agreement.content() == content
    require(right, fault, "it agreed to other survivors than it was shown")
    new = agreement.silo in masking.dealers and all(
        a.silo != agreement.silo for a in state.agreements
    )
    require(new, fault, "it agreed twice, or wasn't asked")
    agreements = (*state.agreements, agreement)
    waiting = state.waiting - {agreement.silo}
    return _advance(replace(state, waiting=waiting, agreements=agreements))


def seal_agreements(state: s.Agreeing) -> AggregatorStep:
    """t signatures make U3 the only set that can ever be opened in this attempt."""
    masking, session = state.masking, state.masking.session
    agreed = frozenset(a.silo for a in state.agreements)
    if len(agreed) < session.params.threshold:
        return _void_all(masking, f"only {len(agreed)} silos agreed")
    quorum = m.AgreementSet(session.ctx, state.agreements)
    after = s.Revealing(masking, state.survivors, state.agreements, agreed)
    return after, _to_all(agreed, quorum)


def collect_reveal(state: s.Revealing, answer: m.Reveal) -> AggregatorStep:
    """Take one silo's shares; as soon as t open every secret, publish the sum."""
    masking, session = state.masking, state.masking.session
    fault = checks.faulty(session, answer.silo)
    checks.signed(session, answer, answer.silo, fault)
    require(answer.ctx == session.ctx, fault, "it revealed in another attempt")
    waiting = _answered(state, answer.silo)
    due = _shares_due(answer.silo, masking.dealers, state.survivors.silos())
    statements = {st.dealer: st for st in masking.statements}
    for kind, given in (("self", answer.self_shares), ("key", answer.key_shares)):
        right = [peer for peer, _ in given] == due[kind]
        require(right, fault, "it revealed other shares than agreed")
        for peer, piece in given:
            checks.share(statements[peer], answer.silo, kind, piece, fault)
    after = replace(state, waiting=waiting, reveals=(*state.reveals, answer))
    return open_sum(after) if _openable(after) else _advance(after)


def open_sum(state: s.Revealing) -> AggregatorStep:
    """Step 6: recover one secret per silo, take the masks off, publish sum and tag.

    Every share was checked against its commitment, so a secret that comes out wrong is
    its dealer's fault.
    """
    masking, session = state.masking, state.masking.session
    if not _openable(state):
        return s.Ended(f"only {len(state.reveals)} silos revealed", free=False), ()
    bound = (session.ctx, masking.adverts.key_set(), m.silo_set(masking.dealers))
    adverts = {a.silo: a for a in masking.adverts.adverts}
    u3 = state.survivors.silos()
    streams = []
    for silo in masking.dealers:
        fault, secret = checks.faulty(session, silo), _recover(state, silo)
        if silo in u3:
            commitment = shares.secret_commitment(session.ctx, silo, secret)
            right = commitment == adverts[silo].self_commitment
            require(right, fault, "its shares don't open its self-mask seed")
            streams.append((masks.derive_self_seed(secret, *bound), -1))
            continue
        key = ExchangeKey.from_bytes(secret)
        right = key.public == adverts[silo].mask_key
        require(right, fault, "its shares don't open its mask key")
        for peer in u3:
            public = adverts[peer].mask_key
            seed = _pair_seed(session, bound, key, public, silo, peer)
            streams.append((seed, -masks.pair_sign(peer, silo)))
    tag = (masking.tag + masks.add_streams(masking.total, streams)) % PRIME
    total = fixed_point.lift_signed(masking.total, session.params.ring_bits)
    checks.sum_range(session, total, len(u3))
    out = m.PublishedSum(*bound[:2], u3, total, tag, state.agreements)
    everyone = frozenset(range(len(session.roster)))
    out = sign(masking.key, out)
    return s.Published(session, everyone, out), (m.Release(out),)


def collect_confirmation(state: s.Published, word: m.Confirmation) -> AggregatorStep:
    """Take one silo's word on the next state; t equal ones certify it for everybody."""
    session, params = state.session, state.session.params
    checks.confirmation(session.roster, session.charter, session.round, word)
    waiting, got = _answered(state, word.silo), (*state.confirmations, word)
    equal = tuple(c for c in got if c.content() == word.content())
    shown = m.RoundCertificate(session.round, equal)
    if len(equal) == params.threshold:
        return s.Certified(shown), _to_all(range(params.silos), shown)
    after, effects = _advance(replace(state, waiting=waiting, confirmations=got))
    if len(equal) == params.corrupt + 1 and word.release_digest:
        # One of them is honest: silos that can't check the tag themselves may follow it.
        return after, (*_to_all(waiting, shown), *effects)
    return after, effects


def lose_quorum(state: s.Published) -> AggregatorStep:
    """No content has t signatures, and nobody is left to wait for."""
    n, t = len(state.confirmations), state.session.params.threshold
    raise QuorumLost(f"round {state.session.round}: no {t} of {n} statements are equal")


def collect_void(state: s.Voiding, word: m.VoidStatement) -> AggregatorStep:
    """t of them prove that fewer than t silos can ever reveal: the updates are free."""
    session, fault = state.session, checks.faulty(state.session, word.silo)
    checks.signed(session, word, word.silo, fault)
    require(word.ctx == session.ctx, fault, "it voided another attempt")
    if any(v.silo == word.silo for v in state.statements):
        return state, ()  # a restarted silo says it again
    got = (*state.statements, word)
    if len(got) < session.params.threshold:
        return replace(state, statements=got), ()
    proof = m.VoidCertificate(session.ctx, got)
    return s.Ended(state.reason, free=True), _to_all(range(session.params.silos), proof)


def lose(state: Any, gone: m.Lost | m.VoidStatement) -> AggregatorStep:
    """A silo is gone, or has closed the attempt: go on without it."""
    after = replace(state, waiting=state.waiting - {gone.silo})
    if isinstance(after, s.Gathering):  # before Mask it costs nothing to leave it out
        left = tuple(a for a in after.adverts if a.silo != gone.silo)
        return _advance(replace(after, adverts=left))
    if isinstance(after, s.Sharing):
        kept = tuple(b for b in after.bundles if b.statement.dealer != gone.silo)
        return _advance(replace(after, bundles=kept))
    return _advance(after)


def end_voiding(state: s.Voiding, deadline: m.Deadline) -> AggregatorStep:
    """Too few silos closed the attempt in time."""
    return s.Ended(state.reason, free=False), ()


def seal_now(state: Any, deadline: m.Deadline | None = None) -> AggregatorStep:
    """Go on with what has arrived."""
    return SEAL[type(state)](state)


def ignore(state: s.AggregatorState, message: m.Message) -> AggregatorStep:
    """An honest silo's message that came too late. It is never added, never answered."""
    return state, ()


SEAL: dict[type, Callable[..., AggregatorStep]] = {
    s.Gathering: seal_adverts,
    s.Sharing: seal_shares,
    s.Masking: seal_uploads,
    s.Agreeing: seal_agreements,
    s.Revealing: open_sum,
    s.Published: lose_quorum,
}
AGGREGATOR: dict[tuple[type, type], Callable[..., AggregatorStep]] = {
    (s.Gathering, m.Advert): collect_advert,
    (s.Sharing, m.ShareBundle): collect_bundle,
    (s.Masking, m.MaskedUpload): collect_upload,
    (s.Agreeing, m.Agreement): collect_agreement,
    (s.Revealing, m.Reveal): collect_reveal,
    (s.Published, m.Confirmation): collect_confirmation,
    (s.Voiding, m.VoidStatement): collect_void,
    (s.Voiding, m.Deadline): end_voiding,
    (s.Voiding, m.Lost): ignore,
}
_ORDER = [*AGGREGATOR][:6]
for _i, (_phase, _message) in enumerate(_ORDER):
    AGGREGATOR[_phase, m.Deadline] = seal_now
    AGGREGATOR[_phase, m.Lost] = AGGREGATOR[_phase, m.VoidStatement] = lose
    for _later in (*(p for p, _ in _ORDER[_i + 1 :]), s.Certified, s.Voiding, s.Ended):
        AGGREGATOR[_later, _message] = ignore


def aggregator_step(state: s.AggregatorState, message: m.Message) -> AggregatorStep:
    """One transition of the aggregator. Raises ProtocolError and its kinds."""
    step = AGGREGATOR.get((type(state), type(message)))
    if step is None:
        names = type(state).__name__, type(message).__name__
        raise ProtocolError("an aggregator that is {} takes no {}".format(*names))
    return step(state, message)


# ===================================== statements that a silo with no state left also makes


def voided(
    me: s.Me, round: int, attempt: int, ctx: bytes
) -> tuple[m.Fuse, m.VoidStatement]:
    """A restarted silo, or one that was never in the attempt, closes it."""
    statement = sign(me.key, m.VoidStatement(me.silo, ctx))
    return m.Fuse("void", round, attempt, ctx, record=statement), statement


def confirmation(
    me: s.Me, charter: bytes, round: int, state_digest: bytes, release_digest: bytes
) -> tuple[m.Fuse, m.Confirmation]:
    """A silo's one durable statement of a round; an empty release digest skips it."""
    word = m.Confirmation(me.silo, charter, round, state_digest, release_digest)
    word = sign(me.key, word)
    return m.Fuse("confirm", round, 0, b"", record=word), word


# ======================================================================== within the steps


def _shares_due(
    me: int, dealers: Iterable[int], survivors: Iterable[int]
) -> dict[str, list[int]]:
    """THE decision, one answer per peer: its self-mask seed's share if its upload is in
    the sum (the own one too), else its mask key's (never the own). Both would open it."""
    due: dict[str, list[int]] = {"self": [], "key": []}
    for peer in dealers:
        if peer in survivors:
            due["self"].append(peer)
        elif peer != me:
            due["key"].append(peer)
    return due


def _pair_seed(
    session: s.Session,
    bound: tuple[bytes, bytes, bytes],
    own: ExchangeKey,
    public: bytes,
    me: int,
    peer: int,
) -> bytes:
    shared, pair = own.exchange(public), (min(me, peer), max(me, peer))
    return masks.derive_pair_seed(shared, session.charter, *bound, *pair)


def _tag_key(
    session: s.Session,
    bound: tuple[bytes, bytes, bytes],
    dealers: tuple[int, ...],
    contributions: Mapping[int, bytes],
) -> TagKey:
    ctx, key_set, u2 = bound
    length = session.params.length
    return TagKey.derive(ctx, key_set, dealers, contributions, length, u2)


def _pieces(state: s.Revealing, silo: int) -> dict[int, bytes]:
    """The shares revealed so far of the one secret of `silo` that may be opened."""
    kind = "self_shares" if silo in state.survivors.silos() else "key_shares"
    given = {answer.silo: dict(getattr(answer, kind)) for answer in state.reveals}
    return {holder: by[silo] for holder, by in given.items() if silo in by}


def _openable(state: s.Revealing) -> bool:
    t = state.masking.session.params.threshold
    return all(len(_pieces(state, d)) >= t for d in state.masking.dealers)


def _recover(state: s.Revealing, silo: int) -> bytes:
    session = state.masking.session
    t = session.params.threshold
    try:
        return shares.combine(dict(sorted(_pieces(state, silo).items())[:t]), t)
    except ValueError as error:
        raise FaultySilo(session.roster.name(silo), str(error)) from None


def _answered(state: s.Collecting, silo: int) -> frozenset[int]:
    session = getattr(state, "session", None) or state.masking.session  # type: ignore[union-attr]
    fault = checks.faulty(session, silo)
    require(silo in state.waiting, fault, "it wasn't asked, or answered twice")
    return state.waiting - {silo}


def _to_all(silos: Iterable[int], message: m.Sent) -> tuple[m.Effect, ...]:
    return tuple(m.Send(silo, message) for silo in sorted(silos))


def _void_all(state: s.Masking, reason: str) -> AggregatorStep:
    request = sign(state.key, m.VoidRequest(state.session.ctx))
    everyone = range(state.session.params.silos)
    return s.Voiding(state.session, reason), _to_all(everyone, request)


def _advance(state: Any) -> AggregatorStep:
    return (state, ()) if state.waiting else seal_now(state)


# ============================================================ the whole protocol as one loop


def run_release(
    session: s.Session,
    aggregator_key: SigningKey,
    silos: Mapping[int, s.SiloState],
    rand: RandomBytes,
    dies_before: Mapping[int, type] | None = None,
) -> tuple[s.AggregatorState, dict[int, s.SiloState]]:
    """One release in memory: figure, documentation and test oracle.

    `dies_before` maps a silo to the type of message that it no longer sends. Returns the
    last state of the aggregator (Published if a sum came out) and of every silo.
    """
    states, dead = dict(silos), dict(dies_before or {})
    aggregator, effects = open_attempt(session, aggregator_key, silos)
    mail: deque[tuple[int | None, m.Message]] = deque()
    at: int | None = None  # whose step made the effects; None: the aggregator's
    while True:
        for effect in effects:
            if isinstance(effect, m.Send):
                mail.append((effect.to, effect.message))
            elif isinstance(effect, m.Release) and at is None:
                mail.extend((silo, effect.published) for silo in states)
            elif isinstance(
                effect, m.Release
            ):  # here the sum itself stands for the state
                mail.append((at, m.StateApplied(effect.published.release_digest())))
        if not mail and not isinstance(aggregator, s.Collecting | s.Voiding):
            return aggregator, states
        at, message = mail.popleft() if mail else (None, m.Deadline())
        effects = ()
        if at is None:
            aggregator, effects = aggregator_step(aggregator, message)
        elif at in states and (type(states[at]), type(message)) in SILO:
            states[at], effects = silo_step(states[at], message, rand)
            if any(type(getattr(e, "message", None)) is dead.get(at) for e in effects):
                del states[at]
                effects = ()
