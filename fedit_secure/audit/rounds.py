"""One round of the aggregator's transcript: who signed what, and over which silos.

A round ends in a certificate, which t silos signed. If it released a sum, the sum is bound
to the round by its context, to the silos in it by the agreements of t of them, and to the
certificate by its digest. Only the aggregator could have kept anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from fedit_secure.audit.bundle import Bundle, round_name
from fedit_secure.audit.findings import Fault
from fedit_secure.errors import MalformedMessage
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.cohort import Cohorts
from fedit_secure.secagg import messages as m
from fedit_secure.secagg.keys import BadSignature, verify
from fedit_secure.secagg.params import Roster, SecAggParams
from fedit_secure.secagg.states import Session
from fedit_secure.secagg.transcript import digest
from fedit_secure.wire.codec import PublishedNotice, decode
from fedit_secure.wire.limits import MAX_FRAME, Limits

MOST_ATTEMPTS = 10_000
"""Of one round: beyond them a sum's context is taken for another round's."""

Head = tuple[int, int, bytes]  # a silo's roster index, sequence, hash
_F = TypeVar("_F")


@dataclass(slots=True)
class Ended:
    """How a round ended, as far as its files show.

    Attributes:
        state: the digest that the quorum confirmed; b"" where no quorum did.
        release: of the confirmed sum; b"" where the round was skipped.
        signers: how many distinct silos confirmed it.
        ctx: the attempt of the sum; b"" where there is none that is sound.
        contributors: roster indices, of a sum that was confirmed.
        heads: of the adverts of that attempt, each under its silo's signature.
        total: the sum's digest, as ledgers name it.
    """

    round: int
    state: bytes = b""
    release: bytes = b""
    signers: int = 0
    ctx: bytes = b""
    contributors: tuple[int, ...] = ()
    heads: tuple[Head, ...] = ()
    populations: tuple[str, ...] = ()
    total: bytes = b""
    faults: list[Fault] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        if not self.state:
            return "unknown"
        return "released" if self.release else "skipped"


@dataclass(frozen=True, slots=True)
class Terms:
    """What all rounds of a charter have in common, computed once. `roster` are the keys of
    all silos; which of them a round is drawn for, `cohorts` say."""

    charter: bytes
    params: SecAggParams
    cohorts: Cohorts
    roster: Roster
    limits: Limits
    initial: bytes

    @classmethod
    def of(cls, charter: Charter) -> Terms:
        """Those of a charter."""
        params = charter.secagg_params()
        initial = bytes.fromhex(charter.adapter.initial_digest)
        roster, limits = charter.secagg_roster(), Limits.of(params)
        return cls(charter.digest(), params, Cohorts(charter), roster, limits, initial)


class _Wrong(Exception):
    """Ends the reading of a file: a fault's code, and what is wrong."""


def read_round(bundle: Bundle, terms: Terms, round: int, before: bytes | None) -> Ended:
    """Read and check one round. `before` is the state that it started from, None where
    the round before it shows none. Raises ConfigError where a file is too large.
    """
    ended = Ended(round)
    try:
        _certificate(ended, bundle, terms)
        if ended.state and ended.release:
            adverts = _adverts(ended, bundle, terms)
            _sum(ended, bundle, terms, adverts, before)
    except _Wrong as wrong:
        code, what = wrong.args
        ended.faults.append(Fault(code, f"round {round}", what))
    return ended


def read_rounds(bundle: Bundle, terms: Terms, rounds: Iterable[int]) -> Iterator[Ended]:
    """Read rounds one after the other. Raises ConfigError as `Bundle.read`."""
    last: Ended | None = None
    for round in rounds:
        if last is None or last.round != round - 1:
            last = _ended_before(bundle, terms, round)
        last = read_round(bundle, terms, round, last.state or None)
        yield last


def _ended_before(bundle: Bundle, terms: Terms, round: int) -> Ended:
    """How the round before this one ended, by its certificate alone."""
    ended = Ended(round - 1)
    if round == 1:
        ended.state = terms.initial
        return ended
    with suppress(_Wrong):  # it is told where that round is read
        _certificate(ended, bundle, terms)
    return ended


# ------------------------------------------------------------------------ the certificate


def _certificate(ended: Ended, bundle: Bundle, terms: Terms) -> None:
    name = "certificate.frame"
    proof = _frame(bundle, terms, ended.round, name, m.RoundCertificate)
    if proof is None:
        raise _Wrong("round-missing", "there is no certificate of how it ended")
    if proof.round != ended.round:
        raise _Wrong("round-replayed", f"its certificate is round {proof.round}'s")
    said: dict[int, tuple[bytes, bytes]] = {}
    for word in proof.confirmations:
        _signed(terms, word, "confirmation-unsigned")
        _drawn(terms, ended.round, word.silo, "confirmation-undrawn", "confirmed it")
        if (word.charter, word.round) != (terms.charter, ended.round):
            what = f"{_name(terms, word.silo)} confirmed another charter or round"
            raise _Wrong("round-replayed", what)
        said[word.silo] = word.content()
    contents, least = set(said.values()), terms.params.threshold
    if len(contents) > 1:
        raise _Wrong("round-without-quorum", "its confirmations don't say the same")
    if len(said) < least:
        what = f"{len(said)} silos confirmed it, and the charter asks for {least}"
        raise _Wrong("round-without-quorum", what)
    ended.state, ended.release = contents.pop()
    ended.signers = len(said)


# ------------------------------------------------------------------------ the attempt


def _adverts(ended: Ended, bundle: Bundle, terms: Terms) -> m.AdvertSet:
    shown = _frame(bundle, terms, ended.round, "adverts.frame", m.AdvertSet)
    if shown is None:
        raise _Wrong("advert-missing", "there is no file of the adverts")
    _by_aggregator(terms, shown)
    silos = [advert.silo for advert in shown.adverts]
    if silos != sorted(set(silos)):
        raise _Wrong("transcript-malformed", "a silo advertised twice")
    for advert in shown.adverts:
        _signed(terms, advert, "advert-unsigned")
        _drawn(terms, ended.round, advert.silo, "sum-undrawn", "advertised")
        if advert.ctx != shown.ctx:
            what = f"the advert of {_name(terms, advert.silo)} is of another attempt"
            raise _Wrong("sum-replayed", what)
    heads = [advert.ledger_head for advert in shown.adverts]
    ended.heads = tuple(
        (silo, head.sequence, head.hash)
        for silo, head in zip(silos, heads, strict=True)
    )
    ended.populations = tuple(head.population for head in heads)
    return shown


def _sum(
    ended: Ended, bundle: Bundle, terms: Terms, shown: m.AdvertSet, before: bytes | None
) -> None:
    name = "published.frame"
    notice = _frame(bundle, terms, ended.round, name, PublishedNotice)
    integers = read_sum(bundle, terms, ended.round)
    if notice is None or integers is None:
        raise _Wrong("sum-missing", "it ended in a sum that isn't in the bundle")
    if len(integers) != 4 * terms.limits.length:
        what = f"it has {len(integers)} bytes for {terms.limits.length} coordinates"
        raise _Wrong("sum-differs", what)
    published = notice.whole(np.frombuffer(integers, dtype="<i4"))
    _check_context(terms, ended.round, before, published.ctx)
    _check_agreements(terms, ended.round, published, shown)
    if published.release_digest != ended.release:
        # Told apart before the aggregator's signature, which covers the sum as well.
        what = "its integers, silos or attempt aren't those that the silos confirmed"
        raise _Wrong("sum-differs", what)
    _by_aggregator(terms, published)
    ended.ctx, ended.contributors = published.ctx, published.contributors
    ended.total = digest("fedit/sum/v1", integers)


def read_sum(bundle: Bundle, terms: Terms, round: int) -> bytes | None:
    """The integers of a round's sum, little-endian int32; None if they aren't there."""
    return bundle.read(round_name(round, "sum.int32"), 4 * terms.limits.length + 1)


def _check_agreements(
    terms: Terms, round: int, out: m.PublishedSum, shown: m.AdvertSet
) -> None:
    least, quorum = terms.params.minimum, terms.params.threshold
    members = out.contributors
    if list(members) != sorted(set(members)):
        raise _Wrong(
            "transcript-malformed", "the sum's silos aren't sorted and distinct"
        )
    if len(members) < least:
        what = f"it is over {len(members)} silos, and the charter's minimum is {least}"
        raise _Wrong("sum-too-small", what)
    if out.ctx != shown.ctx:
        raise _Wrong("sum-replayed", "it is of another attempt than the adverts")
    if out.key_set != shown.key_set():
        # K covers every advert with its ledger's head, so none can be exchanged later.
        raise _Wrong("adverts-differ", "its key set isn't that of the adverts")
    advertised = {advert.silo for advert in shown.adverts}
    for silo in members:
        _drawn(terms, round, silo, "sum-undrawn", "is in the sum")
    if absent := sorted(set(members) - advertised):
        what = f"{_name(terms, absent[0])} is in the sum, and didn't advertise"
        raise _Wrong("agreement-differs", what)
    signers: set[int] = set()
    bound, content = (out.ctx, out.key_set, m.silo_set(members)), set()
    for agreement in out.agreements:
        _signed(terms, agreement, "agreement-unsigned")
        _drawn(terms, round, agreement.silo, "sum-undrawn", "agreed to its sum")
        said = (agreement.ctx, agreement.key_set, agreement.survivors_digest)
        if said != bound:
            what = f"{_name(terms, agreement.silo)} agreed to another set of silos"
            raise _Wrong("agreement-differs", what)
        content.add((agreement.dealers_digest, agreement.headers_digest))
        signers.add(agreement.silo)
    if len(content) > 1:
        raise _Wrong("agreement-differs", "the agreements don't say the same")
    if len(signers & advertised) < quorum:
        said_so = len(signers & advertised)
        what = f"{said_so} silos of it agreed, and the charter asks for {quorum}"
        raise _Wrong("sum-without-quorum", what)


def _check_context(terms: Terms, round: int, before: bytes | None, ctx: bytes) -> None:
    if before is None:
        return  # the fault is in the round before
    # Most sums are of the first attempt, and nearly all of the first few.
    tries = (1, 16, MOST_ATTEMPTS)
    if not any(ctx in _contexts(terms, round, before, n) for n in tries):
        what = "it belongs to no attempt of this round on the state before it"
        raise _Wrong("sum-replayed", what)


@lru_cache(maxsize=4)
def _contexts(
    terms: Terms, round: int, before: bytes, attempts: int
) -> frozenset[bytes]:
    where = (terms.params, terms.cohorts.roster(round), terms.charter, round)
    return frozenset(Session(*where, n, before).ctx for n in range(1, attempts + 1))


# ------------------------------------------------------------------------------ reading


def _frame(
    bundle: Bundle, terms: Terms, round: int, name: str, kind: type[_F]
) -> _F | None:
    data = bundle.read(round_name(round, name), MAX_FRAME)
    if data is None:
        return None
    try:
        frame = decode(data, terms.limits)
    except MalformedMessage as wrong:
        raise _Wrong("transcript-malformed", f"{name}: {wrong}") from None
    if not isinstance(frame, kind):
        what = f"{name} holds a {type(frame).__name__}"
        raise _Wrong("transcript-malformed", what)
    return frame


def _signed(terms: Terms, message: Any, code: str) -> None:
    members: Sequence[Any] = terms.roster.members
    if not 0 <= message.silo < len(members):
        raise _Wrong(code, f"no silo has number {message.silo}")
    name = _name(terms, message.silo)
    _verify(
        members[message.silo].verify_key,
        message,
        lambda kind: _Wrong(code, f"{name} didn't sign its {kind}"),
    )


def _drawn(terms: Terms, round: int, silo: int, code: str, did: str) -> None:
    if not terms.cohorts.takes(round, silo):
        what = f"{_name(terms, silo)} {did}, and the round isn't drawn for it"
        raise _Wrong(code, what)


def _by_aggregator(terms: Terms, message: Any) -> None:
    _verify(
        terms.roster.aggregator_key,
        message,
        lambda kind: _Wrong("transcript-unsigned", f"it didn't sign its {kind}"),
    )


def _verify(key: bytes, message: Any, wrong: Callable[[str], _Wrong]) -> None:
    try:
        verify(key, message.signed_digest(), message.signature)
    except BadSignature:
        raise wrong(type(message).__name__) from None


def _name(terms: Terms, silo: int) -> str:
    return terms.roster.name(silo)
