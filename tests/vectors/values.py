"""What a second implementation wants to compare on the way to a step's outcome.

Secrets, seeds, streams and digests, computed with the functions that the steps call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from streams import added, alpha, beta, inner, tag_of
from vectors.notation import to_json
from vectors.replay import Step
from vectors.world import World, coefficients

from fedit_secure.secagg import aggregator_steps as agg
from fedit_secure.secagg import keystream as ks
from fedit_secure.secagg import masks, shares
from fedit_secure.secagg import states as s
from fedit_secure.secagg.keys import ExchangeKey, hkdf
from fedit_secure.secagg.tag import TagKey
from fedit_secure.secagg.transcript import Bound, digest, join, u64


def of(world: World, silo: int, name: str, step: Step) -> dict[str, Any]:
    """The values on the way through one transition of a silo, or (-1) the aggregator."""
    compute = VALUES.get((type(step.before), type(step.after)))
    return {} if compute is None else dict(to_json(compute(world, silo, name, step)))


def _advertised(world: World, silo: int, name: str, step: Step) -> dict[str, Any]:
    secrets = step.after.secrets
    return {
        "mask_key_private": secrets.mask_key.private_bytes(),
        "envelope_key_private": secrets.envelope_key.private_bytes(),
        "self_seed": secrets.self_seed,
        "group_contribution": secrets.group_contribution,
    }


def _shared(world: World, silo: int, name: str, step: Step) -> dict[str, Any]:
    secrets, session, t = step.before.secrets, world.session, world.params.threshold
    adverts, rand = step.message.adverts, world.random(silo, name)
    drawn = [c.to_bytes(33, "little") for c in coefficients(rand.left)]
    holders = tuple(advert.silo for advert in adverts)
    of_seed = shares.split(secrets.self_seed, t, holders, rand)
    of_key = shares.split(secrets.mask_key.private_bytes(), t, holders, rand)
    bound = session.bound(step.message.key_set())
    own = secrets.envelope_key
    place = (b"fedit/env/v1", bound.ctx, bound.key_set, u64(silo))
    keys = {
        a.silo: hkdf(
            own.exchange(a.envelope_key),
            bound.charter,
            join(*place, u64(a.silo), own.public, a.envelope_key),
        )
        for a in adverts
        if a.silo != silo
    }
    return {
        "key_set": bound.key_set,
        "self_coefficients": drawn[: t - 1],
        "key_coefficients": drawn[t - 1 :],
        "self_shares": of_seed,
        "key_shares": of_key,
        "envelope_keys": keys,
    }


def _masked(world: World, silo: int, name: str, step: Step) -> dict[str, Any]:
    state, length = step.before, world.params.length
    secrets, bound = state.secrets, step.after.bound
    peers = [
        a
        for a in state.adverts.adverts
        if a.silo in step.after.letters and a.silo != silo
    ]
    key = secrets.mask_key
    streams = [masks.self_stream(secrets.self_seed, bound, 1)]
    streams += [masks.pair_stream(key, bound, silo, a.silo, a.mask_key) for a in peers]
    shared = [key.exchange(a.mask_key) for a in peers]
    vector, _ = added(state.start.update, streams)
    parts = {u: letter.group_contribution for u, letter in step.after.letters.items()}
    tag_key = step.after.tag_key
    return {
        "dealers_digest": bound.dealers_digest,
        "self_mask": stream(streams[0], length),
        "pair_masks": {
            a.silo: {"shared_secret": secret, **stream(one, length)}
            for a, secret, one in zip(peers, shared, streams[1:], strict=True)
        },
        **group(bound, parts, tag_key),
        "inner_product": u64(inner(tag_key, state.start.update)),
        "tag": u64(tag_of(tag_key, silo, state.start.update)),
        "masked_vector": vector.astype("<u4").tobytes(),
        "masked_tag": step.effects[1].message.payload[-8:],
        "header_digest": step.after.header.signed_digest(),
    }


def stream(of: tuple[bytes, int], length: int) -> dict[str, Any]:
    """A mask stream: its seed, its first block and the block that masks the tag."""
    seed, sign = of
    after = -(-length // ks.TILE)
    return {
        "sign": sign,
        "seed": seed,
        "first_block": ks.keystream(seed, 0).update(bytes(16)),
        "tag_block": ks.keystream(seed, after).update(bytes(16)),
        "tag_mask": u64(int(ks.elements(seed, 1, after)[0])),
    }


def group(bound: Bound, parts: dict[int, bytes], key: TagKey) -> dict[str, Any]:
    """The key of the verifiable sum and what it expands to."""
    secret = digest("fedit/group/v1", *bound[1:], *(parts[u] for u in sorted(parts)))
    return {
        "group_key": secret,
        "alpha": [u64(alpha(key, i)) for i in range(len(key.alpha))],
        "beta_1_to_4": [u64(beta(key, j)) for j in range(4)],
        "pads": {u: u64(x) for u, x in sorted(key.pads.items())},
    }


def _agreed(world: World, silo: int, name: str, step: Step) -> dict[str, Any]:
    u3, headers = step.message.digests()
    each = [header.signed_digest() for header in step.message.headers]
    return {"survivors_digest": u3, "headers_digest": headers, "header_digests": each}


def _revealed(world: World, silo: int, name: str, step: Step) -> dict[str, Any]:
    state = step.before
    in_sum, dropped = shares.due(silo, state.masked.letters, state.survivors)
    return {"self_shares_of": in_sum, "key_shares_of": dropped}


def _verified(world: World, silo: int, name: str, step: Step) -> dict[str, Any]:
    key, out = step.before.tag_key, step.message
    return {
        "release_digest": out.release_digest,
        "inner_product": u64(inner(key, out.total)),
        "pads": u64(sum(key.pads[u] for u in out.contributors) % ks.TAG_PRIME),
    }


def _published(world: World, silo: int, name: str, step: Step) -> dict[str, Any]:
    state, params = step.before, world.params
    masking, u3, answer = state.masking, state.survivors, step.message
    given = {**state.got, answer.silo: dict(answer.self_shares + answer.key_shares)}
    full = s.Revealing(
        state.session, state.key, state.asked, masking, u3, state.agreements, got=given
    )
    adverts = {a.silo: a for a in masking.adverts.adverts}
    secrets: dict[int, Any] = {}
    removed: dict[str, Any] = {}
    for u in sorted(masking.asked):
        pieces = agg.pieces_of(full, u)
        secret = shares.combine(pieces, params.threshold)
        kind = "self" if u in u3 else "key"
        secrets[u] = {"kind": kind, "holders": list(pieces), "secret": secret}
        if u in u3:
            mask = masks.self_stream(secret, masking.bound, -1)
            removed[f"self {u}"] = stream(mask, params.length)
            continue
        key = ExchangeKey.from_bytes(secret)
        for peer in u3:
            of = masks.pair_stream(key, masking.bound, u, peer, adverts[peer].mask_key)
            removed[f"pair {u} {peer}"] = stream(of, params.length)
    out, width = step.after.published, np.uint32((1 << params.ring_bits) - 1)
    return {
        "secrets": secrets,
        "masked_sum": (step.total_before & width).astype("<u4").tobytes(),
        "masked_tag_sum": u64(masking.tag),
        "streams_added": removed,
        "release_digest": out.release_digest,
    }


VALUES: dict[tuple[type, type], Callable[[World, int, str, Step], dict[str, Any]]] = {
    (s.Invited, s.Advertised): _advertised,
    (s.Advertised, s.Shared): _shared,
    (s.Shared, s.Masked): _masked,
    (s.Masked, s.Agreed): _agreed,
    (s.Agreed, s.Revealed): _revealed,
    (s.Revealed, s.Verified): _verified,
    (s.Revealing, s.Published): _published,
}
