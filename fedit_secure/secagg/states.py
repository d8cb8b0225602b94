"""The states of one release, per role. Those of a silo hold secrets and never leave it.

No state can be serialised, and none prints what it holds: a silo that dies in the masking
window is a dropout, so there is nothing to save.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedit_secure.secagg import messages as m
from fedit_secure.secagg.envelope import Letter
from fedit_secure.secagg.keys import ExchangeKey, SigningKey
from fedit_secure.secagg.params import Roster, SecAggParams
from fedit_secure.secagg.tag import TagKey
from fedit_secure.secagg.transcript import Bound, Silos, Value, digest, u64


class Session(Value):
    """What both roles agree on before the first message of an attempt.

    `charter` is R; rounds and attempts count from 1; `state_digest` names the global state
    (adapter and moments) that every update started from. `ctx`, 32 bytes, ties whatever
    carries it to all of this.
    """

    params: SecAggParams
    roster: Roster
    charter: bytes
    round: int
    attempt: int
    state_digest: bytes
    ctx: bytes = field(init=False)

    def __post_init__(self) -> None:
        sizes = (self.params.silos, len(self.params.weights))
        if sizes != (len(self.roster.silos), len(self.roster.members)):
            raise ValueError("the sizes of a release aren't those of its roster")
        where = (self.charter, u64(self.round), u64(self.attempt), self.state_digest)
        ctx = digest("fedit/ctx/v1", *where, self.params.codec_digest())
        object.__setattr__(self, "ctx", ctx)

    def bound(self, key_set: bytes, dealers: Silos = ()) -> Bound:
        """What binds this attempt once K, and later U2, are known."""
        return Bound(self.charter, self.ctx, key_set, m.silo_set(dealers))

    def fuse(self, kind: str, **facts: Any) -> m.Fuse:
        """A fuse of this attempt."""
        return m.Fuse(kind, self.round, self.attempt, self.ctx, **facts)


# --------------------------------------------------------------------------------- silo


class Me(Value):
    """This silo: its roster index and its identity key."""

    silo: int
    key: SigningKey


class Secrets(Value):
    """b_u, g_u and the two single-use private keys of one attempt."""

    self_seed: bytes = field(repr=False)
    group_contribution: bytes = field(repr=False)
    mask_key: ExchangeKey
    envelope_key: ExchangeKey


class Invited(Value):
    """`update` is the encoded update, int32 of shape (length,); `update_digest` names the
    update before encoding; `peer_heads` are the ledger heads last seen, by roster index,
    each of the population in that silo's charter row."""

    session: Session
    me: Me
    update: NDArray[np.int32] = field(repr=False)
    update_digest: bytes
    head: m.LedgerHead
    peer_heads: Mapping[int, m.LedgerHead]


class _Started(Value):
    start: Invited


class Advertised(_Started):
    secrets: Secrets
    advert: m.Advert


class Shared(Advertised):
    adverts: m.AdvertSet
    statement: m.ShareStatement
    letter: Letter  # to itself


class Masked(_Started):
    """Holds the letters of U2 and the expanded G; its own seed and keys are gone already."""

    bound: Bound
    letters: Mapping[int, Letter]
    tag_key: TagKey
    header: m.UploadHeader
    acked: bool = False


class Agreed(_Started):
    masked: Masked
    survivors: Silos  # U3
    agreement: m.Agreement


class Revealed(_Started):
    """Every secret of the attempt is gone but G, which checks the sum's tag."""

    key_set: bytes
    survivors: tuple[int, ...]
    tag_key: TagKey


class Verified(_Started):
    published: m.PublishedSum


class Confirmed(Value):
    confirmation: m.Confirmation


class Voided(Value):
    statement: m.VoidStatement


Voidable = Invited | Advertised | Shared | Masked | Agreed
SiloState = Voidable | Revealed | Verified | Confirmed | Voided

# --------------------------------------------------------------------------- aggregator


class Phase(Value):
    """A phase that collects answers. `asked` may answer, once each; `gone` are those that
    nobody waits for; `got` are the answers by roster index."""

    session: Session
    key: SigningKey
    asked: frozenset[int]
    gone: frozenset[int] = field(default=frozenset(), kw_only=True)
    got: Mapping[int, Any] = field(default_factory=dict, kw_only=True)

    @property
    def waiting(self) -> frozenset[int]:
        return self.asked - self.gone - self.got.keys()

    def answers(self) -> tuple[Any, ...]:
        """What came in, sorted by silo."""
        return tuple(self.got[silo] for silo in sorted(self.got))

    def then(self, phase: Callable[..., Any], asked: Iterable[int], *what: Any) -> Any:
        """The next phase, in which those stay gone that are."""
        asked, gone = frozenset(asked), self.gone
        return phase(self.session, self.key, asked, *what, gone=gone)


class Gathering(Phase):
    """Waits for adverts."""


class Sharing(Phase):
    """Waits for the bundles of U1."""

    adverts: m.AdvertSet
    bound: Bound


class Masking(Phase):
    """Waits for the uploads of U2, and keeps their headers.

    `total` (uint32, length) grows in place as uploads arrive: one vector in memory,
    however many silos. The state that comes next owns it.
    """

    adverts: m.AdvertSet
    bound: Bound
    statements: tuple[m.ShareStatement, ...]  # of U2
    total: NDArray[np.uint32] = field(repr=False)
    tag: int = 0


class Agreeing(Phase):
    """Waits for the agreements of U3; another member of U2 may help."""

    masking: Masking
    survivors: m.SurvivorSet


class Revealing(Phase):
    """Waits for shares until t of each secret that is due are there."""

    masking: Masking
    survivors: Silos  # U3
    agreements: tuple[m.Agreement, ...]


class Published(Phase):
    """Waits for t equal confirmations, of whoever is drawn for the round."""

    published: m.PublishedSum


class Voiding(Phase):
    """Uploads may exist, so the attempt must be closed by t signed statements."""

    reason: str


class Certified(Value):
    certificate: m.RoundCertificate


class Ended(Value):
    """No sum. `free`: no upload can ever be opened, so every update may go on."""

    reason: str
    free: bool


AggregatorState = Phase | Certified | Ended
