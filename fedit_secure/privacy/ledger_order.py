"""Which event may follow which in a ledger: one rule a kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import ClassVar

from fedit_secure.privacy import events as e
from fedit_secure.privacy.carried_over import Inherited, Lost


class LedgerOrder:
    """What a ledger's events have established so far. `take` each event in its order."""

    def __init__(self) -> None:
        self._opened: e.Opened | None = None
        self._last_intent: dict[str, e.Intent] = {}
        self._charged: Counter[str] = Counter()
        self._intents: Counter[tuple[str, int]] = Counter()
        self._commits: Counter[tuple[str, int]] = Counter()
        self._committed = 0
        self._released: set[tuple[str, int]] = set()
        self._masked: set[str] = set()
        self._revealed: set[str] = set()
        self._voided: set[str] = set()
        self._renewed: set[str] = set()
        self._identity = ""
        self._cap: float | None = None
        self._inherited: dict[str, Inherited] = {}

    def take(self, event: e.Event) -> None:
        """Raises ValueError, in one sentence, if the event can't come next.

        Nothing has changed then: every rule checks first.
        """
        if self._opened is None and not isinstance(event, e.Opened):
            raise ValueError("the first entry isn't the opening")
        rule = self._RULES.get(type(event))
        if rule is not None:
            rule(self, event)

    def _opening(self, event: e.Opened) -> None:
        if self._opened is not None:
            raise ValueError("a ledger is opened once")
        self._opened, self._identity = event, event.identity
        self._cap = event.cap_epsilon

    def _intent(self, event: e.Intent) -> None:
        opened, last = self._opened, self._last_intent.get(event.charter)
        assert opened is not None
        if event.unit != opened.unit:
            raise ValueError(f"the ledger's unit is the {opened.unit}")
        if event.sizes == "public" and opened.adjacency != "zero-out":
            raise ValueError(
                "public sizes can't be claimed by a ledger that adds or removes records"
            )
        if last is not None:
            if event.round < last.round:
                raise ValueError(
                    f"the charter's round {event.round} comes after its round {last.round}"
                )
            if event.plan() != last.plan():
                raise ValueError("a charter has one plan, and this intent has another")
        if self._charged[event.charter] >= event.charges:
            raise ValueError(f"the charter's {event.charges} charges are used up")
        self._last_intent[event.charter] = event
        self._charged[event.charter] += 1
        self._intents[event.charter, event.round] += 1

    def _needs_intent(self, event: e.Committed | e.Released | e.Aborted) -> None:
        if not self._intents[event.charter, event.round]:
            raise ValueError(f"round {event.round} of this charter has no intent")
        if (event.charter, event.round) in self._released:
            raise ValueError(f"round {event.round} of this charter is over")

    def _commit(self, event: e.Committed) -> None:
        self._needs_intent(event)
        key = (event.charter, event.round)
        if self._commits[key] >= self._intents[key]:
            raise ValueError(f"round {event.round} has more updates than intents")
        self._commits[key] += 1
        self._committed += 1

    def _release(self, event: e.Released) -> None:
        self._needs_intent(event)
        self._released.add((event.charter, event.round))

    def _mask(self, event: e.Masked) -> None:
        if event.ctx in self._masked or event.ctx in self._voided:
            raise ValueError("this attempt was masked or voided before")
        if len(self._masked) - len(self._renewed) >= self._committed:
            raise ValueError("every committed update is masked already")
        self._masked.add(event.ctx)

    def _reveal(self, event: e.Revealed) -> None:
        if event.ctx not in self._masked:
            raise ValueError("nothing was masked in the attempt that it reveals in")
        if any(
            event.ctx in over for over in (self._revealed, self._voided, self._renewed)
        ):
            raise ValueError("the attempt was revealed in, voided or renewed before")
        self._revealed.add(event.ctx)

    def _void(self, event: e.Voided) -> None:
        if event.ctx in self._revealed:
            raise ValueError("an attempt that was revealed in can't be voided")
        self._voided.add(event.ctx)

    def _renew(self, event: e.Renewed) -> None:
        if event.ctx not in self._masked or event.ctx in self._revealed:
            raise ValueError("no masked and unrevealed update is there to renew")
        if event.ctx in self._renewed:
            raise ValueError("the attempt's update was renewed before")
        self._renewed.add(event.ctx)

    def _rotate(self, event: e.KeyRotated) -> None:
        if event.old != self._identity:
            raise ValueError("the key that it rotates isn't the silo's")
        self._identity = event.new

    def _change_cap(self, event: e.CapChanged) -> None:
        self._cap = event.cap_epsilon

    def _lose(self, event: Lost) -> None:
        if event.epsilon != self._cap:
            raise ValueError("what is lost counts as the whole cap in force")

    def _inherit(self, event: Inherited) -> None:
        assert self._opened is not None
        if event.source == self._opened.population:
            raise ValueError("a population inherits from others")
        if event.unit != self._opened.unit:
            raise ValueError(f"the ledger's unit is the {self._opened.unit}")
        earlier = self._inherited.get(event.source)
        if earlier is not None:
            if event.sequence < earlier.sequence or not event.covers(earlier):
                raise ValueError(
                    "it takes back what was inherited from this source before"
                )
            if event.filter_order != earlier.filter_order:
                raise ValueError("the source's filter order was another one before")
        self._inherited[event.source] = event

    _RULES: ClassVar[dict[type[e.Event], Callable[..., None]]] = {
        e.Opened: _opening,
        e.Intent: _intent,
        e.Committed: _commit,
        e.Masked: _mask,
        e.Revealed: _reveal,
        e.Voided: _void,
        e.Renewed: _renew,
        e.Released: _release,
        e.Aborted: _needs_intent,
        e.KeyRotated: _rotate,
        e.CapChanged: _change_cap,
        Lost: _lose,
        Inherited: _inherit,
    }
