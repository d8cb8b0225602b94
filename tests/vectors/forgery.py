"""What the bad cases are made with: changed messages, signed again by whom it takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vectors.notation import difference, patched, read, write
from vectors.story import Story
from vectors.world import AGGREGATOR

from fedit_secure.secagg import checks

Json = dict[str, Any]
AGGREGATORS = ("FaultyAggregator", "aggregator")
NOBODY = ("ProtocolError", None)


def silo_is(silo: int) -> tuple[str, str]:
    """The silo is faulty, and its signature proves it."""
    return "FaultySilo", f"silo-{silo}"


def either(silo: int) -> tuple[str, str]:
    """The silo or the aggregator is faulty."""
    return "FaultySiloOrAggregator", f"silo-{silo}"


class Forgery:
    """Collects the bad cases of one party."""

    def __init__(self, story: Story, messages: dict[str, Json], party: int) -> None:
        self.story, self.messages, self.party = story, messages, party
        self.world = story.world
        self.made: list[tuple[str, Json]] = []

    def sign(self, party: int, message: Any, **changes: Any) -> Any:
        """The message with these fields, signed by a silo or (-1) the aggregator."""
        return checks.sign(self.world.key(party), replace(message, **changes))

    def flipped(self, message: Any) -> Any:
        """The message with one bit of its signature flipped."""
        head = bytes([message.signature[0] ^ 1])
        return replace(message, signature=head + message.signature[1:])

    def get(self, name: str) -> Any:
        """A message of the release."""
        return read(self.messages[name])

    def takes(self, last: str) -> list[str]:
        """What the party took in the release, up to this."""
        return self.story.took(self.party, last)

    def bad(
        self,
        name: str,
        comment: str,
        last: str,
        new: Any,
        fault: tuple[str, str | None],
        because: str,
        **rest: Any,
    ) -> None:
        """A case whose last message is `new` in the place of `last` (None: as it was)."""
        file, takes = name.partition("_")[0], rest.pop("takes", None)
        changes = rest.pop("changes", {})
        if new is not None:
            changes = {**changes, last: difference(self.messages[last], write(new))}
            assert patched(self.messages[last], changes[last]) == write(new), name
            assert changes[last], f"{name} changes nothing"
        case: Json = {"name": name, "comment": comment}
        case["party"] = "anybody" if rest.pop("anybody", False) else self._party()
        case["takes"] = self.takes(last) if takes is None else takes
        if changes:
            case["changes"] = changes
        error, suspect = fault
        case |= {"error": error, "suspect": suspect, "because": because}
        self.made.append((file, case))

    def _party(self) -> str:
        return "aggregator" if self.party == AGGREGATOR else f"silo {self.party}"

    def variant(
        self,
        name: str,
        comment: str,
        other: Story,
        fault: tuple[str, str],
        because: str,
    ) -> None:
        """A case in which other messages led to it: all that differ are changed."""
        assert other.refused is not None, f"{name} isn't refused"
        party, last = other.refused
        assert party == self.party, name
        takes = self.takes(last)
        made = {n: write(other.messages[n]) for n in takes if n in other.messages}
        changes = {
            n: difference(self.messages[n], x)
            for n, x in made.items()
            if x != self.messages[n]
        }
        what = {"takes": takes, "changes": changes}
        self.bad(name, comment, last, None, fault, because, **what)
