"""The states of one release, per role. Those of a silo hold secrets and never leave it.

No state can be serialised, and none prints what it holds: a silo that dies in the masking
window is a dropout, so there is nothing to save.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedit_secure.secagg import messages as m
from fedit_secure.secagg.keys import ExchangeKey, SigningKey
from fedit_secure.secagg.params import Roster, SecAggParams
from fedit_secure.secagg.transcript import context


@dataclass(frozen=True, slots=True)
class Session:
    """What both roles agree on before the first message of an attempt.

    `charter` is R; `state_digest` names the global state that every update started from.
    """

    params: SecAggParams
    roster: Roster
    charter: bytes
    round: int
    attempt: int
    state_digest: bytes

    @property
    def ctx(self) -> bytes:
        codec = self.params.codec_digest()
        where = (self.charter, self.round, self.attempt, self.state_digest)
        return context(*where, codec)


# --------------------------------------------------------------------------------- silo


@dataclass(frozen=True, slots=True)
class Me:
    """This silo: its roster index and its identity key."""

    silo: int
    key: SigningKey


@dataclass(frozen=True, slots=True)
class Secrets:
    """b_u, g_u and the two single-use private keys of one attempt."""

    self_seed: bytes = field(repr=False)
    group_contribution: bytes = field(repr=False)
    mask_key: ExchangeKey
    envelope_key: ExchangeKey


@dataclass(frozen=True, slots=True)
class Invited:
    """`update` is the encoded update, int32 of shape (length,); `update_digest` names the
    update before encoding; `peer_heads` are the ledger heads last seen, by roster index."""

    session: Session
    me: Me
    update: NDArray[np.int32] = field(repr=False)
    update_digest: bytes
    head: m.LedgerHead
    peer_heads: Mapping[int, m.LedgerHead]


@dataclass(frozen=True, slots=True)
class Advertised:
    start: Invited
    secrets: Secrets
    advert: m.Advert


@dataclass(frozen=True, slots=True)
class Shared:
    start: Invited
    secrets: Secrets
    adverts: m.AdvertSet
    statement: m.ShareStatement
    own_shares: tuple[bytes, bytes] = field(repr=False)  # of b_u, of the mask key


@dataclass(frozen=True, slots=True)
class Masked:
    """Holds peers' shares and G's parts; its own seed and keys are gone already."""

    start: Invited
    key_set: bytes
    dealers: tuple[int, ...]  # U2
    shares: Mapping[int, tuple[bytes, bytes]] = field(repr=False)
    contributions: Mapping[int, bytes] = field(repr=False)
    header: m.UploadHeader
    acked: bool = False


@dataclass(frozen=True, slots=True)
class Agreed:
    start: Invited
    masked: Masked
    survivors: tuple[int, ...]  # U3
    agreement: m.Agreement


@dataclass(frozen=True, slots=True)
class Revealed:
    """`masked` holds no shares any more, only G, which checks the sum's tag."""

    start: Invited
    masked: Masked
    survivors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Verified:
    start: Invited
    published: m.PublishedSum


@dataclass(frozen=True, slots=True)
class Confirmed:
    confirmation: m.Confirmation


@dataclass(frozen=True, slots=True)
class Voided:
    statement: m.VoidStatement


Voidable = Invited | Advertised | Shared | Masked | Agreed
SiloState = Voidable | Revealed | Verified | Confirmed | Voided

# --------------------------------------------------------------------------- aggregator


@dataclass(frozen=True, slots=True)
class Gathering:
    session: Session
    key: SigningKey
    waiting: frozenset[int]
    adverts: tuple[m.Advert, ...] = ()


@dataclass(frozen=True, slots=True)
class Sharing:
    session: Session
    key: SigningKey
    adverts: m.AdvertSet
    waiting: frozenset[int]
    bundles: tuple[m.ShareBundle, ...] = ()


@dataclass(frozen=True, slots=True)
class Masking:
    """`total` (uint32, length) and `tag` grow in place as uploads arrive: one vector in
    memory, however many silos. The state that comes next owns them."""

    session: Session
    key: SigningKey
    adverts: m.AdvertSet
    statements: tuple[m.ShareStatement, ...]  # of U2
    waiting: frozenset[int]
    total: NDArray[np.uint32] = field(repr=False)
    tag: int = 0
    headers: tuple[m.UploadHeader, ...] = ()

    @property
    def dealers(self) -> tuple[int, ...]:
        return tuple(s.dealer for s in self.statements)


@dataclass(frozen=True, slots=True)
class Agreeing:
    masking: Masking
    survivors: m.SurvivorSet
    waiting: frozenset[int]
    agreements: tuple[m.Agreement, ...] = ()


@dataclass(frozen=True, slots=True)
class Revealing:
    masking: Masking
    survivors: m.SurvivorSet
    agreements: tuple[m.Agreement, ...]
    waiting: frozenset[int]
    reveals: tuple[m.Reveal, ...] = ()


@dataclass(frozen=True, slots=True)
class Published:
    session: Session
    waiting: frozenset[int]
    published: m.PublishedSum
    confirmations: tuple[m.Confirmation, ...] = ()


@dataclass(frozen=True, slots=True)
class Certified:
    certificate: m.RoundCertificate


@dataclass(frozen=True, slots=True)
class Voiding:
    """Uploads may exist, so the attempt must be closed by t signed statements."""

    session: Session
    reason: str
    statements: tuple[m.VoidStatement, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """No sum. `free`: no upload was ever revealed, so every update may go on."""

    reason: str
    free: bool


Collecting = Gathering | Sharing | Masking | Agreeing | Revealing | Published
AggregatorState = Collecting | Certified | Voiding | Ended
