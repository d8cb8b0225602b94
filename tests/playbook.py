"""A release in memory whose every message a test may read, change, drop, repeat or forge.

The machines are the real ones: `silo_step` and `aggregator_step`, and a `Life` per silo that
burns every fuse. The aggregator's machine is honest; a malicious aggregator is played by
changing what it sends and signing it again with its key. Randomness is seeded.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from attacks.holdings import (  # noqa: F401 - tests take their assertions from here
    assert_nothing_leaked,
    assert_nothing_opened,
    assert_one_sum,
    learned,
    opened,
    secrets_of,
)

from fedit_secure.errors import FeditError, FuseBlown, ProtocolError
from fedit_secure.federation.release_sizes import release_sizes
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.secagg.params import Member, Roster, SecAggParams
from fedit_secure.secagg.protocol import (
    SILO,
    aggregator_step,
    open_attempt,
    silo_step,
    voided,
)
from fedit_secure.secagg.transcript import digest
from fedit_secure.storage.life import MASKED, VOIDED, Life, burn

SPOKEN = (m.Advert, m.ShareBundle, m.MaskedUpload, m.Agreement, m.Reveal)


@dataclass(frozen=True)
class Mail:
    """A message under way; None is the aggregator."""

    sender: int | None
    to: int | None
    message: Any


@dataclass
class Cast:
    """Who plays: keys, roster, sizes, and what outlives an attempt."""

    params: SecAggParams
    keys: list[SigningKey]
    aggregator_key: SigningKey
    updates: dict[int, np.ndarray]
    charter: bytes = b"R" * 32
    lives: dict[int, Life] = field(default_factory=dict)
    heads: dict[int, dict[int, m.LedgerHead]] = field(default_factory=dict)
    drawn: frozenset[int] | None = None

    @property
    def roster(self) -> Roster:
        members = (Member(name(i), key.public) for i, key in enumerate(self.keys))
        return Roster(tuple(members), self.aggregator_key.public, self.drawn)


def name(silo: int) -> str:
    return f"silo-{silo}"


def cast(
    silos: int = 4,
    *,
    length: int = 24,
    seed: int = 1,
    updates: dict[int, np.ndarray] | None = None,
    bound: float = 1.0,
    drawn: Iterable[int] | None = None,
    **sizes: Any,
) -> Cast:
    """A cast whose updates are uniform over all that the encoding holds. `drawn`: those
    that the round is drawn for, None for all."""
    cohort = None if drawn is None else frozenset(drawn)
    sizes |= {} if cohort is None else {"drawn": len(cohort)}
    params = release_sizes(silos, length=length, bound=bound, **sizes)
    rng = np.random.default_rng(seed)
    top = params.magnitude
    values = {i: rng.integers(-top, top, length, np.int32, True) for i in range(silos)}
    *keys, last = (SigningKey.from_seed(rng.bytes(32)) for _ in range(silos + 1))
    made = Cast(params, keys, last, values if updates is None else updates)
    made.drawn = cohort
    made.lives = {i: Life() for i in range(silos)}
    made.heads = {i: {} for i in range(silos)}
    return made


class Play:
    """One attempt. Everything that a silo sends is in `sent`: the aggregator saw it."""

    def __init__(
        self,
        who: Cast | int = 4,
        *,
        round: int = 1,
        attempt: int = 1,
        state_digest: bytes = b"d" * 32,
        seed: int = 1,
        invited: Iterable[int] | None = None,
        sequence: int | None = None,
        sessions: dict[int, dict[str, Any]] | None = None,
        **sizes: Any,
    ) -> None:
        self.cast = cast(who, seed=seed, **sizes) if isinstance(who, int) else who
        who = self.cast
        self.rand = random.Random(f"{seed} {round} {attempt}").randbytes
        self.session = s.Session(
            who.params, who.roster, who.charter, round, attempt, state_digest
        )
        count = 10 * round + attempt if sequence is None else sequence
        self.states: dict[int, Any] = {
            i: s.Invited(
                replace(self.session, **(sessions or {}).get(i, {})),
                s.Me(i, who.keys[i]),
                who.updates[i],
                digest("update", who.updates[i].tobytes()),
                head(i, count),
                dict(who.heads[i]),
            )
            for i in who.roster.silos
        }
        self.updates = dict(who.updates)  # the cast's change with the round
        self.sessions = {i: state.session for i, state in self.states.items()}
        self.secrets: dict[
            int, s.Secrets
        ] = {}  # of every silo, for what assertions hold
        self.mail: deque[Mail] = deque()
        self.sent: list[Mail] = []  # by silos
        self.shown: list[Mail] = []  # by the aggregator, as it arrives
        self.errors: dict[int | None, FeditError] = {}
        self.blame: list[ProtocolError] = []  # by the aggregator
        self.records: dict[int, Any] = {}
        self.certificates: dict[int, m.RoundCertificate] = {}
        self.released: m.PublishedSum | None = None
        self.verified: dict[int, m.PublishedSum] = {}
        self._hooks: list[tuple[type, int | None, int | None, Callable[..., Any]]] = []
        asked = who.roster.silos if invited is None else invited
        self.aggregator: Any
        self.aggregator, effects = open_attempt(self.session, who.aggregator_key, asked)
        self._post(None, effects)

    # ------------------------------------------------------------------------ the script

    def alter(
        self,
        kind: type,
        do: Callable[..., Any],
        *,
        to: int | None = None,
        sender: int | None = None,
    ) -> Play:
        """Pass messages of this kind (to or from these parties) through `do`, which gives
        back what arrives instead: a message, several in a list, or None for nothing."""
        self._hooks.append((kind, to, sender, do))
        return self

    def drop(self, kind: type, **where: int) -> Play:
        return self.alter(kind, lambda message: None, **where)

    def forge(
        self, kind: type, do: Callable[..., Any], *, to: int | None = None
    ) -> Play:
        """`alter` for what the aggregator signs: it signs the changed message again."""
        return self.alter(kind, lambda message: self.by_aggregator(do(message)), to=to)

    def cheat(self, kind: type, silo: int, do: Callable[..., Any]) -> Play:
        """`alter` for what a malicious silo signs."""
        return self.alter(kind, lambda x: self.by_silo(silo, do(x)), sender=silo)

    def by_aggregator(self, message: Any) -> Any:
        return checks.sign(self.cast.aggregator_key, message)

    def by_silo(self, silo: int, message: Any) -> Any:
        key = self.cast.keys[silo]
        if isinstance(message, m.ShareBundle):
            return replace(message, statement=checks.sign(key, message.statement))
        if isinstance(message, m.MaskedUpload):
            return replace(message, header=checks.sign(key, message.header))
        return checks.sign(key, message)

    def run(self, deadlines: bool = True, until: type | None = None) -> Play:
        """Deliver until nothing is under way; then time passes for the aggregator.

        `until`: stop before the aggregator's machine leaves the state of this type.
        """
        while True:
            while self.mail:
                self._deliver(self.mail.popleft())
                stop = until is not None and isinstance(self.aggregator, until)
                if stop or None in self.errors:
                    return self
            if not deadlines or isinstance(self.aggregator, s.Certified | s.Ended):
                return self
            self.aggregate(m.Deadline())
            if None in self.errors:
                return self

    # ----------------------------------------------------------------- single deliveries

    def step(self, silo: int, message: Any) -> None:
        """Hand a silo a message. An error is kept, and the silo sits the attempt out."""
        self.shown.append(Mail(None, silo, message))
        if isinstance(message, m.RoundCertificate):
            self.certificates[silo] = message
            return
        if isinstance(message, m.VoidCertificate):
            self.renew(silo, message)
            return
        state = self.states.get(silo)
        if silo in self.errors or (type(state), type(message)) not in SILO:
            if isinstance(message, m.VoidRequest):
                self._void_again(silo, message)
            elif state is not None and silo not in self.errors:
                with pytest.raises(ProtocolError, match="takes no"):
                    silo_step(state, message, self.rand)
            return
        try:
            after, effects = silo_step(state, message, self.rand)
            self.perform(silo, effects)
            self.states[silo] = after
            if isinstance(after, s.Advertised):
                self.secrets[silo] = after.secrets
        except FeditError as error:
            self.errors[silo] = error
            self.aggregate(m.Lost(silo), sender=silo)

    def perform(self, silo: int, effects: Iterable[m.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, m.Fuse) and effect.kind == "heads":
                self.cast.heads[silo].update(effect.heads)
            elif isinstance(effect, m.Fuse):
                self.cast.lives[silo] = burn(self.cast.lives[silo], effect)
                self.records[silo] = effect.record or self.records.get(silo)
            elif isinstance(effect, m.Release):
                self.verified[silo] = effect.published
                applied = m.StateApplied(effect.published.release_digest)
                self.mail.append(Mail(silo, silo, applied))
            else:
                self._post(silo, (effect,))

    def aggregate(self, message: Any, sender: int | None = None) -> None:
        """Hand the aggregator a message, as its driver does: a silo whose message it
        refuses is lost, and what isn't the sender's fault ends the attempt."""
        try:
            self.aggregator, effects = aggregator_step(self.aggregator, message)
        except ProtocolError as error:
            self.blame.append(error)
            suspect = getattr(error, "suspect", "")
            if sender is None or suspect not in ("", name(sender)):
                self.errors[None] = error
                return
            self.aggregate(m.Lost(sender))
        else:
            self._post(None, effects)

    def restart(self, silo: int) -> None:
        """Its memory is gone; its disk is read back."""
        del self.states[silo]
        life = self.cast.lives[silo]
        self.cast.lives[silo] = Life.from_bytes(life.to_bytes())
        assert self.cast.lives[silo] == life

    def void(self, silo: int) -> m.VoidStatement:
        """What a silo without a state does to close this attempt. Raises FuseBlown."""
        who, at = self.cast, self.session
        me = s.Me(silo, who.keys[silo])
        fuse, statement = voided(me, at.round, at.attempt, at.ctx)
        who.lives[silo] = burn(who.lives[silo], fuse)
        return statement

    def renew(self, silo: int, proof: m.VoidCertificate) -> None:
        """A void certificate makes the update fresh."""
        checks.void_certificate(self.cast.roster, self.cast.params, proof)
        life, at = self.cast.lives[silo], self.session
        if life.ctx == proof.ctx and life.state in (MASKED, VOIDED):
            fuse = m.Fuse("renew", at.round, at.attempt, proof.ctx)
            self.cast.lives[silo] = burn(life, fuse)

    def _void_again(self, silo: int, request: m.VoidRequest) -> None:
        """A silo that has no state any more answers from its disk."""
        checks.by_aggregator(self.session, request)
        word = self.records.get(silo)
        if word is None:
            try:
                word = self.void(silo)
            except FuseBlown:
                return
        if isinstance(word, m.VoidStatement):
            self._post(silo, (m.Send(None, word),))

    def next_round(self, **changes: Any) -> Play:
        """The next round of the same cast, with new updates."""
        who = self.cast
        who.updates = {i: np.roll(update, 1) for i, update in who.updates.items()}
        return Play(who, **{"round": self.session.round + 1, **changes})

    def again(self, **changes: Any) -> Play:
        """The next attempt of the same round, by the same cast."""
        here = {"round": self.session.round, "attempt": self.session.attempt + 1}
        return Play(self.cast, **{**here, **changes})

    # ------------------------------------------------------------------------ the results

    def plain_sum(self, silos: Iterable[int]) -> np.ndarray:
        """The sum of the encoded updates, in 64 bits."""
        return sum(self.updates[i].astype(np.int64) for i in silos)

    def heard(self, kind: type, silo: int | None = None) -> list[Any]:
        """What silos sent of this kind, tampered with or not."""
        mails = (x for x in self.sent if silo is None or x.sender == silo)
        return [x.message for x in mails if isinstance(x.message, kind)]

    def got(self, kind: type, silo: int) -> list[Any]:
        """What arrived at a silo of this kind."""
        mails = (x.message for x in self.shown if x.to == silo)
        return [message for message in mails if isinstance(message, kind)]

    # ----------------------------------------------------------------------------- inside

    def _post(self, sender: int | None, effects: Iterable[m.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, m.Send):
                mail = Mail(sender, effect.to, effect.message)
                if sender is not None:
                    self.sent.append(mail)
                elif isinstance(effect.message, m.PublishedSum):
                    self.released = effect.message
                self.mail.append(mail)

    def _deliver(self, mail: Mail) -> None:
        for message in self._tampered(mail):
            if mail.to is None:
                self.aggregate(message, sender=mail.sender)
            else:
                self.step(mail.to, message)

    def _tampered(self, mail: Mail) -> list[Any]:
        arriving = [mail.message]
        for kind, to, sender, do in self._hooks:
            if to not in (None, mail.to) or sender not in (None, mail.sender):
                continue
            passed: list[Any] = []
            for message in arriving:
                if not isinstance(message, kind):
                    passed.append(message)
                    continue
                after = do(message)
                passed += after if isinstance(after, list) else [after]
            arriving = [message for message in passed if message is not None]
        return arriving


def head(silo: int, sequence: int, population: str = "") -> m.LedgerHead:
    """The head of an honest ledger: the same count always comes with the same hash."""
    population = population or f"population of {name(silo)}"
    return m.LedgerHead(population, sequence, digest("chain", population.encode()))


# ------------------------------------------------------------------------------ assertions


def assert_released(play: Play, contributors: Iterable[int]) -> None:
    """The exact sum of exactly these came out, and a quorum certified it."""
    among = tuple(sorted(contributors))
    assert not play.errors
    assert play.released is not None
    assert play.released.contributors == among
    np.testing.assert_array_equal(play.released.total, play.plain_sum(among))
    assert isinstance(play.aggregator, s.Certified)
    assert_nothing_leaked(play)


def assert_refused(
    play: Play, silo: int, error: type[FeditError], suspect: str | None, what: str
) -> None:
    """This silo raised exactly this error about exactly this suspect."""
    raised = play.errors.get(silo)
    assert type(raised) is error, f"{silo} raised {raised!r}"
    assert getattr(raised, "suspect", None) == suspect, raised
    assert what in str(raised), raised


def assert_blamed(
    play: Play, error: type[FeditError], suspect: str | None, what: str
) -> None:
    """The aggregator raised this first."""
    assert play.blame, "the aggregator blamed nobody"
    assert type(play.blame[0]) is error, play.blame
    assert getattr(play.blame[0], "suspect", None) == suspect, play.blame
    assert what in str(play.blame[0]), play.blame
