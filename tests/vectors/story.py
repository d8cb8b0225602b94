"""The one good release of the vectors, and its variants that lead to bad cases.

Silo 4 vanishes before *Mask*, so that its mask key is opened; silo 1 vanishes after it, so
that its upload counts and its self-mask seed is opened. The other four are a quorum.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from vectors import replay
from vectors.world import AGGREGATOR, World

from fedit_secure.errors import ProtocolError
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s

VANISH = {4: "u2 to 4", 1: "u3"}  # each with the first message that it doesn't take
NAMES: dict[type, str] = {
    m.Offer: "offer",
    m.Advert: "advert {sender}",
    m.AdvertSet: "u1",
    m.ShareBundle: "bundle {sender}",
    m.ShareSet: "u2 to {to}",
    m.MaskedUpload: "upload {sender}",
    m.UploadAck: "ack to {to}",
    m.SurvivorSet: "u3",
    m.Agreement: "agreement {sender}",
    m.AgreementSet: "quorum",
    m.Reveal: "reveal {sender}",
    m.PublishedSum: "published",
    m.Confirmation: "confirmation {sender}",
    m.VoidRequest: "void request",
    m.VoidStatement: "void {sender}",
    m.VoidCertificate: "void certificate",
}
Meddle = Callable[[int, str, Any], Any]


def name_of(message: Any, sender: int, to: int | None) -> str:
    """The message's name in the vectors."""
    if isinstance(message, m.RoundCertificate):  # first of c + 1, then of t
        return f"certificate of {len(message.confirmations)}"
    return NAMES[type(message)].format(sender=sender, to=to)


class Story:
    """A release from its offer to its certificate.

    Attributes:
        messages: every message that was sent, by name.
        steps: per party, in order, the name of what it took and the transition.
        refused: the party and the name of what it refused, which ends the story.
    """

    def __init__(
        self,
        world: World,
        *,
        vanish: Mapping[int, str] = VANISH,
        before: Meddle | None = None,
        after: Meddle | None = None,
    ) -> None:
        """`before` and `after` may change a party's state around a step, by the name of
        the message that the step takes."""
        self.world, self.vanish = world, vanish
        self.before, self.after = before, after
        silos = range(world.params.silos)
        self.messages: dict[str, Any] = {}
        self.steps: dict[int, list[tuple[str, replay.Step]]] = {i: [] for i in silos}
        self.steps[AGGREGATOR] = []
        parties = (AGGREGATOR, *silos)
        self.states = {party: replay.start(world, party) for party in parties}
        self.gone: set[int] = set()
        self.refused: tuple[int, str] | None = None
        self.mail: deque[tuple[int, str]] = deque()
        opened = replay.open_attempt(world.session, world.key(AGGREGATOR), silos)
        self._send(AGGREGATOR, opened[1])
        self._run()

    def took(self, party: int, last: str) -> list[str]:
        """The names of what a party took, up to this one."""
        names = [name for name, _ in self.steps[party]]
        return names[: names.index(last) + 1]

    def step(self, party: int, name: str) -> replay.Step:
        """The transition in which a party took this."""
        return dict(self.steps[party])[name]

    def _run(self) -> None:
        while not (self.refused or isinstance(self.states[AGGREGATOR], s.Certified)):
            if not self.mail:
                self._take(AGGREGATOR, "deadline", m.Deadline())
            while self.mail and not self.refused:
                to, name = self.mail.popleft()
                self._take(to, name, self.messages[name])

    def _take(self, party: int, name: str, message: Any) -> None:
        if self.vanish.get(party) == name:
            self.gone.add(party)
        if party in self.gone or isinstance(message, m.RoundCertificate):
            return
        state = self.states[party]
        if self.before is not None:
            state = self.before(party, name, state)
        try:
            step = replay.take(self.world, party, state, name, message)
        except ProtocolError:
            self.refused = party, name
            return
        self.states[party] = step.after
        if self.after is not None:
            self.states[party] = self.after(party, name, step.after)
        self.steps[party].append((name, step))
        self._send(party, step.effects)
        if isinstance(step.after, s.Verified):
            applied = replay.message_of(self.world, {}, {}, "applied")
            self._take(party, "applied", applied)

    def _send(self, sender: int, effects: tuple[Any, ...]) -> None:
        for effect in effects:
            if isinstance(effect, m.Send):
                name = name_of(effect.message, sender, effect.to)
                self.messages[name] = effect.message
                self.mail.append((AGGREGATOR if effect.to is None else effect.to, name))
