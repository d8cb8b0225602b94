"""What a malicious aggregator and its accomplices hold after a play, and all it opens.

They hold every message that any silo sent (arrived or not), every set that the aggregator
showed, the accomplices' private keys, and so the letters that were sealed to them. The
calculation is exact: every mask that is still unknown is a variable of its own, an upload
is a sum of a vector and such variables, and a sum of uploads is known if and only if every
variable cancels in it. That is so for the unions of some classes of uploads, and `learned`
finds them, takes the masks off, and says what came out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from streams import added, ring_of

from fedit_secure.secagg import fixed_point, masks, shares
from fedit_secure.secagg import messages as m
from fedit_secure.secagg.envelope import Letter, open_
from fedit_secure.secagg.keys import Bad, ExchangeKey, SigningKey
from fedit_secure.secagg.transcript import Bound, encode

if TYPE_CHECKING:
    from playbook import Play

MINE = ExchangeKey.from_bytes(b"\x07" * 32)  # what attacks put in place of others' keys
Secret = tuple[int, str]  # (silo, "self" or "key")


@dataclass
class Holdings:
    """Of one play: shares by secret and holder, and the secrets that are known."""

    play: Play
    corrupt: frozenset[int]
    shares: dict[Secret, dict[int, bytes]] = field(default_factory=dict)
    seeds: dict[int, bytes] = field(default_factory=dict)  # b_u
    keys: dict[int, ExchangeKey] = field(default_factory=dict)  # mask keys
    opened: set[Secret] = field(default_factory=set)  # of honest silos


def held(play: Play, corrupt: Iterable[int] = ()) -> Holdings:
    """Collect all shares, and combine them wherever there are t of one secret."""
    all_of = Holdings(play, frozenset(corrupt))
    for reveal in play.heard(m.Reveal):
        for kind, given in (("self", reveal.self_shares), ("key", reveal.key_shares)):
            for peer, piece in given:
                all_of.shares.setdefault((peer, kind), {})[reveal.silo] = piece
    for holder in all_of.corrupt & play.secrets.keys():
        own = play.secrets[holder]
        all_of.seeds[holder], all_of.keys[holder] = own.self_seed, own.mask_key
    for dealer, holder, letter in _letters(all_of):
        for kind, piece in (("self", letter.self_share), ("key", letter.key_share)):
            all_of.shares.setdefault((dealer, kind), {})[holder] = piece
    for (silo, kind), pieces in all_of.shares.items():
        if silo not in all_of.corrupt:
            _combine(all_of, silo, kind, pieces)
    return all_of


def _letters(all_of: Holdings) -> Iterator[tuple[int, int, Letter]]:
    """(dealer, holder, letter) of every envelope that an attacker's key opens."""
    play = all_of.play
    own = {
        i: play.secrets[i].envelope_key for i in all_of.corrupt & play.secrets.keys()
    }
    for bundle in play.heard(m.ShareBundle):
        dealt = bundle.statement
        theirs = play.heard(m.Advert, dealt.dealer)[0].envelope_key
        charter = play.sessions[dealt.dealer].charter
        bound = Bound(charter, dealt.ctx, dealt.key_set)
        for holder, sealed in bundle.envelopes:
            for key in (own.get(holder, MINE), MINE):
                try:
                    yield (
                        dealt.dealer,
                        holder,
                        open_(key, bound, holder, dealt.dealer, theirs, sealed),
                    )
                except Bad:
                    continue
                break


def _combine(all_of: Holdings, silo: int, kind: str, pieces: dict[int, bytes]) -> None:
    t = all_of.play.cast.params.threshold
    if len(pieces) < t:
        return
    all_of.opened.add((silo, kind))
    secret = shares.combine(dict(sorted(pieces.items())[:t]), t)
    truth = all_of.play.secrets[silo]
    if kind == "self":  # else the calculation here is wrong, and proves nothing
        assert secret == truth.self_seed
        all_of.seeds[silo] = secret
    else:
        assert secret == truth.mask_key.private_bytes()
        all_of.keys[silo] = ExchangeKey.from_bytes(secret)


def opened(
    plays: Iterable[Play] | Play, corrupt: Iterable[int] = ()
) -> set[tuple[int, str]]:
    """(silo, kind) of every honest silo's secret of which t shares are held, in any one of
    these attempts."""
    each = plays if isinstance(plays, Iterable) else [plays]
    return {secret for play in each for secret in held(play, corrupt).opened}


# ------------------------------------------------------------------- what uploads still hide


@dataclass
class Stripped:
    """An honest silo's upload, less every mask that is known.

    `unknown` names the masks that remain: of a pair, (low, high, what it is bound to), so
    that both halves have one name if and only if they cancel; and `own` if the self mask
    is one of them.
    """

    silo: int
    residue: np.ndarray  # uint32, as many low bits as the ring has
    unknown: frozenset[tuple[int, int, Bound]]
    own: bool


def stripped(all_of: Holdings) -> list[Stripped]:
    """Every honest upload that was ever sent, with all that is known taken off."""
    play, params = all_of.play, all_of.play.cast.params
    found = []
    for upload in play.heard(m.MaskedUpload):
        me, head = upload.header.silo, upload.header
        if me in all_of.corrupt:
            continue
        charter = play.sessions[me].charter
        bound = Bound(charter, head.ctx, head.key_set, head.dealers_digest)
        adverts = {a.silo: a for a in play.got(m.AdvertSet, me)[-1].adverts}
        dealers = [x.dealer for x in play.got(m.ShareSet, me)[-1].statements]
        known: list[tuple[bytes, int]] = []
        unknown = set()
        for peer in dealers:
            if peer == me:
                continue
            if me in all_of.keys:
                public = adverts[peer].mask_key
                seed, sign = masks.pair_stream(all_of.keys[me], bound, me, peer, public)
            elif peer in all_of.keys:
                # The peer's half: the same seed, the other sign.
                public = play.heard(m.Advert, me)[0].mask_key
                seed, other = masks.pair_stream(
                    all_of.keys[peer], bound, peer, me, public
                )
                sign = -other
            else:
                low, high = sorted((me, peer))
                unknown.add((low, high, bound))
                continue
            known.append((seed, -sign))
        if me in all_of.seeds:
            known.append(masks.self_stream(all_of.seeds[me], bound, -1))
        ring = ring_of(upload.payload, params.length, params.ring_bits)
        ring, _ = added(ring, known)
        ring &= np.uint32((1 << params.ring_bits) - 1)
        found.append(Stripped(me, ring, frozenset(unknown), me not in all_of.seeds))
    return found


def learned(play: Play, corrupt: Iterable[int] = ()) -> list[tuple[int, ...]]:
    """The sets of honest silos whose sum the attacker can compute, no part of which it can.

    Uploads that share an unknown mask belong to one class; a class is known if each of its
    unknown masks is in exactly two of its uploads, and no self mask is left. Of each that
    is, the sum is taken, and it is the true one: else this function would prove nothing.
    """
    uploads = stripped(held(play, corrupt))
    rest, known = list(uploads), []
    while rest:
        group, grew = [rest.pop()], True
        while grew:
            names = frozenset().union(*(x.unknown for x in group))
            near = [x for x in rest if x.unknown & names]
            rest = [x for x in rest if not x.unknown & names]
            group, grew = group + near, bool(near)
        halves = [name for x in group for name in x.unknown]
        if any(x.own for x in group) or any(halves.count(n) != 2 for n in halves):
            continue
        silos = tuple(sorted(x.silo for x in group))
        bits = play.cast.params.ring_bits
        total = sum((x.residue for x in group), np.zeros_like(group[0].residue))
        clear = fixed_point.lift_signed(total, bits)
        np.testing.assert_array_equal(clear, play.plain_sum(silos))
        known.append(silos)
    return sorted(known)


# ----------------------------------------------------------------------------- assertions


def assert_one_answer_each(play: Play) -> None:
    """No silo said anything twice, gave both shares of a peer, or its own mask key's."""
    for silo in play.cast.roster.silos:
        for kind in (m.Advert, m.ShareBundle, m.MaskedUpload, m.Agreement, m.Reveal):
            said = play.heard(kind, silo)
            assert len(said) <= 1, f"{silo} said {kind.__name__} {len(said)} times"
        for reveal in play.heard(m.Reveal, silo):
            selves = {peer for peer, _ in reveal.self_shares}
            keys = {peer for peer, _ in reveal.key_shares}
            assert not selves & keys, f"{silo} revealed both shares of a peer"
            assert silo not in keys, f"{silo} revealed its own mask key's share"
            assert len(selves) >= play.cast.params.minimum


def assert_no_secret_sent(play: Play, corrupt: Iterable[int] = ()) -> None:
    """No honest silo's seed, contribution or private key is in any byte that was sent."""
    secrets = [
        secret
        for silo, own in play.secrets.items()
        if silo not in set(corrupt)
        for secret in (
            own.self_seed,
            own.group_contribution,
            own.mask_key.private_bytes(),
            own.envelope_key.private_bytes(),
        )
    ]
    for mail in play.sent:
        raw = bytes(getattr(mail.message, "payload", b""))
        rest = getattr(mail.message, "header", mail.message)
        sent = raw + encode(rest)
        assert not any(secret in sent for secret in secrets), type(mail.message)


def assert_coordinates_masked(play: Play, corrupt: Iterable[int] = ()) -> None:
    """No coordinate of an honest update shows, in an upload as it was sent, or with every
    mask that is known taken off."""
    params, all_of = play.cast.params, held(play, corrupt)
    width = np.uint32((1 << params.ring_bits) - 1)
    rings = [(x.silo, x.residue) for x in stripped(all_of)]
    rings += [
        (upload.header.silo, ring_of(upload.payload, params.length, params.ring_bits))
        for upload in play.heard(m.MaskedUpload)
    ]
    for silo, ring in rings:
        plain = play.updates[silo].astype(np.uint32)
        same = int(np.count_nonzero(ring & width == plain & width))
        # By chance one in 2^24 is equal: at 24 coordinates none, among 30,000 hardly any.
        assert same <= params.length >> 12, (
            f"{same} coordinates of {silo} aren't masked"
        )


def assert_nothing_leaked(
    play: Play, corrupt: Iterable[int] = (), *, withheld: bool = False
) -> None:
    """The guarantee of docs/protocol.md, against all that the attacker holds.

    One answer per silo; never both secrets of an honest silo; no coordinate of one; at
    most one sum, over at least the minimum, with two honest silos in it. Without a
    published sum no secret opens at all, unless `withheld`: shares were given, and the
    aggregator (or a bad dealer) kept the one sum from coming out.
    """
    corrupt = frozenset(corrupt)
    assert_one_answer_each(play)
    assert_no_secret_sent(play, corrupt)
    open_now = opened(play, corrupt)
    twice = {i for i, kind in open_now if (i, "self") in open_now and kind == "key"}
    assert not twice, f"both secrets of {twice} open"
    assert_coordinates_masked(play, corrupt)
    sums = learned(play, corrupt)
    assert len(sums) <= 1, f"{sums} are known: more than one sum"
    for silos in sums:
        assert len(silos) >= 2, f"the only honest update in a sum is that of {silos}"
        assert len(silos) + len(corrupt) >= play.cast.params.minimum
    if play.released is None and not withheld:
        assert not open_now, f"{open_now} open, and no sum came out"
        assert not sums
    if play.released is not None:
        honest = set(play.released.contributors) - corrupt
        assert sums in ([], [tuple(sorted(honest))]), f"{sums}, not that of {honest}"


def assert_nothing_opened(play: Play, corrupt: Iterable[int] = ()) -> None:
    """Whatever went wrong, it went wrong before any secret opened."""
    assert_nothing_leaked(play, corrupt)
    assert opened(play, corrupt) == set()
    assert learned(play, corrupt) == []
    assert play.released is None


def assert_one_sum(plays: list[Play], corrupt: Iterable[int] = ()) -> None:
    """Over all attempts of a round: one sum, and one attempt in which a secret opens."""
    for play in plays:
        assert_nothing_leaked(play, corrupt, withheld=True)
    assert sum(play.released is not None for play in plays) <= 1
    assert sum(bool(opened(play, corrupt)) for play in plays) <= 1
    assert sum(len(learned(play, corrupt)) for play in plays) <= 1


# --------------------------------------------------------------- what mustn't be printed


def secrets_of(state: Any) -> list[bytes]:  # noqa: C901
    """Every secret byte string that a silo's state holds, at any depth."""
    found: list[bytes] = []

    def walk(value: Any, secret: bool) -> None:
        if isinstance(value, bytes | bytearray):
            if secret:
                found.append(bytes(value))
        elif isinstance(value, np.ndarray):
            some = (int(x) for x in value.ravel()[:4])
            found.extend(str(x).encode() for x in some if secret and abs(x) > 9999)
        elif isinstance(value, dict):
            for item in value.values():
                walk(item, secret)
        elif isinstance(value, tuple):
            for item in value:
                walk(item, secret)
        elif hasattr(value, "private_bytes"):
            found.append(value.private_bytes())
        elif isinstance(value, SigningKey):
            found.append(value.seed())
        elif is_dataclass(value):
            hidden = type(value).__name__ in ("Secrets", "Letter", "TagKey")
            for f in fields(value):
                walk(getattr(value, f.name), secret or hidden or not f.repr)

    walk(state, False)
    return found
