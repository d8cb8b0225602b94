"""The steps of a silo, in paper order; protocol.py says which state takes which message.

Every message of the aggregator's has been found signed by it, and of this attempt, before
it gets here; and what turns out to be bad is blamed on it unless a step says otherwise.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from fedit_secure import errors
from fedit_secure.secagg import checks, fixed_point, masks, shares
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.checks import blame, expect, sign
from fedit_secure.secagg.envelope import Letter, seal
from fedit_secure.secagg.keys import ExchangeKey, Rand
from fedit_secure.secagg.keystream import TAG_PRIME
from fedit_secure.secagg.tag import TagKey

Step = tuple[s.SiloState, tuple[m.Effect, ...]]
Burnt = tuple[m.Fuse, Any]  # a fuse, and what is signed with it


def advertise(state: s.Invited, offer: m.Offer, rand: Rand) -> Step:
    """Step 1: fresh single-use keys, commitments to b_u and g_u, and the ledger head."""
    session, me = state.session, state.me
    here = checks.same(session, offer, "charter", "round", "attempt", "state_digest")
    expect(here, "its offer is for another charter, round, attempt or model")
    mask_key, envelope_key = (ExchangeKey.from_bytes(rand(32)) for _ in range(2))
    seed, part = rand(32), rand(32)
    commit = partial(shares.secret_commitment, session.ctx, me.silo)
    promised = (mask_key.public, envelope_key.public, commit(seed), commit(part))
    advert = sign(me.key, m.Advert(me.silo, session.ctx, *promised, state.head))
    after = s.Advertised(state, s.Secrets(seed, part, mask_key, envelope_key), advert)
    return after, (session.fuse("advertise"), m.Send(None, advert))


def share(state: s.Advertised, u1: m.AdvertSet, rand: Rand) -> Step:
    """Step 2: deal shares of b_u and the mask key, sealed and committed to, to all of U1."""
    start, secrets, adverts = state.start, state.secrets, u1.adverts
    session, me, t = start.session, start.me.silo, start.session.params.threshold
    holders = checks.shown(session, adverts, state.advert, "U1")
    expect(me in holders, "this silo was left out of U1", errors.AttemptFailed)
    checks.keys_differ(adverts)
    for advert in adverts:
        with blame(errors.FaultySilo, session.roster.name(advert.silo)):
            checks.advert(advert, start.peer_heads.get(advert.silo))
    of_seed = shares.split(secrets.self_seed, t, holders, rand)
    of_key = shares.split(secrets.mask_key.private_bytes(), t, holders, rand)
    bound, part = session.bound(u1.key_set()), secrets.group_contribution
    letters = {v: Letter(of_seed[v], of_key[v], part) for v in holders}
    to = partial(seal, secrets.envelope_key, bound, me)
    others = (a for a in adverts if a.silo != me)
    sealed = {a.silo: to(a.silo, a.envelope_key, letters[a.silo]) for a in others}
    hashes = tuple(checks.envelope_hash(sealed.get(v, b"")) for v in holders)
    commit = partial(shares.share_commitment, bound, me)
    seeds = tuple(commit(v, "self", of_seed[v]) for v in holders)
    keys = tuple(commit(v, "key", of_key[v]) for v in holders)
    dealt = (me, session.ctx, bound.key_set, holders, hashes, seeds, keys)
    statement = sign(start.me.key, m.ShareStatement(*dealt))
    bundle = m.ShareBundle(statement, tuple(sealed.items()))
    heads = tuple((advert.silo, advert.ledger_head) for advert in adverts)
    after = s.Shared(start, secrets, state.advert, u1, statement, letters[me])
    return after, (session.fuse("heads", heads=heads), m.Send(None, bundle))


def mask(state: s.Shared, u2: m.ShareSet, rand: Rand) -> Step:
    """Step 3: with a valid envelope from every other member of U2, mask and upload.

    b_u and both private keys are dropped here: from now on they exist in shares only.
    """
    start, secrets, u1 = state.start, state.secrets, state.statement.holders
    session, me, params = start.session, start.me.silo, start.session.params
    dealers = checks.shown(session, u2.statements, state.statement, "U2")
    expect(set(dealers) <= set(u1), "U2 isn't a part of U1")
    expect(me in dealers, "this silo was left out of U2", errors.AttemptFailed)
    bound = session.bound(state.adverts.key_set(), dealers)
    checks.bound_to(bound, u2)
    for dealt in u2.statements:
        with blame(errors.FaultySiloOrAggregator, session.roster.name(dealt.dealer)):
            checks.statement(bound, dealt, u1)
    letters = checks.letters(state, u2, bound)
    parts = {dealer: letter.group_contribution for dealer, letter in letters.items()}
    tag_key = TagKey.derive(bound, parts, params.length, params.ring_bits)
    half = partial(masks.pair_stream, secrets.mask_key, bound, me)
    peers = (a for a in state.adverts.adverts if a.silo in letters and a.silo != me)
    streams = [half(a.silo, a.mask_key) for a in peers]
    streams.append(masks.self_stream(secrets.self_seed, bound, 1))
    payload = np.empty(params.payload_bytes, np.uint8)
    pack = partial(fixed_point.pack, payload, params.ring_bits)
    tag = tag_key.tag(me, start.update) + masks.add_streams(start.update, streams, pack)
    payload[-8:] = bytearray((tag % TAG_PRIME).to_bytes(8, "little"))
    what = (payload.size, checks.payload_digest(payload.data))
    header = sign(start.me.key, m.UploadHeader(me, *bound[1:], *what))
    fuse = session.fuse("mask", update_digest=start.update_digest)
    start = replace(start, update=start.update[:0].copy())
    after = s.Masked(start, bound, letters, tag_key, header)
    return after, (fuse, m.Send(None, m.MaskedUpload(header, payload.data)))


def note_ack(state: s.Masked, ack: m.UploadAck, rand: Rand) -> Step:
    """The aggregator's signed word that it holds our upload: dropping us now is proof."""
    expect(not state.acked, "it was acknowledged before", errors.ProtocolError)
    ours = m.UploadAck(ack.ctx, state.header.silo, state.header.signed_digest())
    expect(replace(ack, signature=b"") == ours, "it acknowledged what was never sent")
    return replace(state, acked=True), ()


def agree(state: s.Masked, survivors: m.SurvivorSet, rand: Rand) -> Step:
    """Step 4, the consistency check: sign the one set of survivors that we were shown."""
    session, me = state.start.session, state.start.me
    u3 = checks.shown(session, survivors.headers, state.header, "U3")
    expect(set(u3) <= state.letters.keys(), "U3 isn't a part of U2")
    for header in survivors.headers:
        with blame(errors.FaultySiloOrAggregator, session.roster.name(header.silo)):
            checks.header(session, state.bound, header)
    expect(me.silo in u3 or not state.acked, "it left out an acknowledged upload")
    what = (*state.bound[1:], *survivors.digests())
    agreement = sign(me.key, m.Agreement(me.silo, *what))
    return s.Agreed(state.start, state, u3, agreement), (m.Send(None, agreement),)


def reveal(state: s.Agreed, quorum: m.AgreementSet, rand: Rand) -> Step:
    """Step 5: once t silos signed what we signed, give one share per peer, never two."""
    start, held = state.start, state.masked.letters
    checks.quorum(state, quorum.agreements)
    in_sum, dropped = shares.due(start.me.silo, held, state.survivors)
    seeds = tuple((peer, held[peer].self_share) for peer in in_sum)
    keys = tuple((peer, held[peer].key_share) for peer in dropped)
    answer = sign(start.me.key, m.Reveal(start.me.silo, start.session.ctx, seeds, keys))
    after = (state.masked.bound.key_set, state.survivors, state.masked.tag_key)
    fuse = start.session.fuse("reveal", record=answer)
    return s.Revealed(start, *after), (fuse, m.Send(None, answer))


def verify_sum(state: s.Revealed, out: m.PublishedSum, rand: Rand) -> Step:
    """Step 7, first half: the sum is over the agreed silos and carries their tag."""
    params = state.start.session.params
    agreed = (out.key_set, out.contributors) == (state.key_set, state.survivors)
    expect(agreed, "it published a sum over others than agreed")
    shaped = out.total.shape == (params.length,) and out.total.dtype == np.int32
    expect(shaped, "it published a sum of another shape")
    with blame(errors.FaultySiloOrAggregator, "any contributor"):
        fixed_point.check_sum(out.total, params, len(out.contributors))
        state.tag_key.check(out.total, out.tag, out.contributors)
    return s.Verified(state.start, out), (m.Release(out),)


def confirm(state: s.Verified, new: m.StateApplied, rand: Rand) -> Step:
    """Step 7, second half: sign the state that applying the verified sum gave."""
    session, release = state.start.session, state.published.release_digest
    where = (session.charter, session.round, new.state_digest, release)
    fuse, statement = confirmation(state.start.me, *where)
    return s.Confirmed(statement), (fuse, m.Send(None, statement))


def void(state: s.Voidable, cause: m.VoidRequest | m.Deadline, rand: Rand) -> Step:
    """Close the attempt for ever and say so; every secret of it goes with the old state."""
    session, me = start_of(state).session, start_of(state).me
    fuse, statement = voided(me, session.round, session.attempt, session.ctx)
    return s.Voided(statement), (fuse, m.Send(None, statement))


def start_of(state: Any) -> s.Invited:
    """How a silo entered the attempt that it is in."""
    return state if isinstance(state, s.Invited) else state.start


# -------------------------------------- statements that a silo with no state also makes


def voided(me: s.Me, round: int, attempt: int, ctx: bytes) -> Burnt:
    """A restarted silo, or one that was never in the attempt, closes it."""
    statement = sign(me.key, m.VoidStatement(me.silo, ctx))
    return m.Fuse("void", round, attempt, ctx, record=statement), statement


def confirmation(me: s.Me, charter: bytes, round: int, *digests: bytes) -> Burnt:
    """A silo's one durable statement of a round. The digests are of the state after it and
    of the release; that of the release is empty for a round that is skipped."""
    word = sign(me.key, m.Confirmation(me.silo, charter, round, *digests))
    return m.Fuse("confirm", round, 0, b"", record=word), word
