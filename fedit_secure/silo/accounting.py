"""What a silo asks its accountants: may this charter, this tuning, be charged?

A question holds all that its answer depends on, and the answer is one word. So it can be
given by another process, and is in a daemon (`accountants.py`): the accountants and their
libraries take more memory than all the rest of it, for a second in each round.

    python -m fedit_secure.silo.accounting

answers one question a line, until there are none.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

from fedit_secure.errors import BudgetExhausted, FeditError, PolicyRefusal, StorageError
from fedit_secure.federation.admission import Account, Asked, admit
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.policy import Policy
from fedit_secure.federation.windows import ChargeTimes
from fedit_secure.privacy.ledger import Ledger
from fedit_secure.privacy.mechanisms import PrivacyAccountingError

_ERRORS: Final = {
    kind.__name__: kind
    for kind in (
        BudgetExhausted,
        PolicyRefusal,
        PrivacyAccountingError,
        StorageError,
        FeditError,
    )
}
_OF: Final = "the question"


@dataclass(frozen=True, slots=True)
class Question:
    """About one silo's ledger under one charter.

    `entries`: of the population's ledger, none before its first charter. `round` and
    `state_digest` (in hex) are of the tuning that is to be charged.

    What is asked, and the answer:
        caps: epsilon spent under each cap of the policy, and the cap; `take_caps` reads it.
        admit: whether the charter may be admitted; "".
        order: of a new ledger's Renyi filter; the number.
        room: whether there is room for the charter's whole run; "".
        reserve: the same, and more; the ledger's entry that charges the tuning.
    """

    what: Literal["admit", "caps", "order", "room", "reserve"]
    charter: Charter
    name: str
    policy: Policy
    entries: tuple[bytes, ...] = ()
    times: ChargeTimes = field(default_factory=ChargeTimes)
    round: int = 0
    state_digest: str = ""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(
            {
                "what": self.what,
                "charter": self.charter.to_bytes().decode(),
                "name": self.name,
                "policy": self.policy.model_dump(mode="json"),
                "entries": [entry.decode() for entry in self.entries],
                "times": self.times.to_bytes().decode(),
                "round": self.round,
                "state_digest": self.state_digest,
            }
        )

    @classmethod
    def from_json(cls, line: str | bytes) -> Self:
        """Of what `to_json` gave."""
        fields: dict[str, Any] = json.loads(line)
        return cls(
            fields["what"],
            Charter.from_bytes(fields["charter"].encode(), _OF),
            fields["name"],
            Policy.model_validate(fields["policy"]),
            tuple(entry.encode() for entry in fields["entries"]),
            ChargeTimes.from_bytes(fields["times"].encode()),
            fields["round"],
            fields["state_digest"],
        )


Ask = Callable[[Question], str]


def answer(question: Question) -> str:
    """See `Question`. Raises PolicyRefusal, BudgetExhausted and PrivacyAccountingError."""
    charter, name, policy = question.charter, question.name, question.policy
    row, plan = charter.row(name), charter.plan_for(name)
    if question.what == "order":
        from fedit_secure.privacy.renyi import best_order

        assert policy.epsilon is not None
        assert policy.delta is not None
        return repr(best_order(plan.run_event(), policy.delta, policy.epsilon))
    ledger = None
    if question.entries:
        ledger = Ledger.from_entries(row.population, question.entries)
    account = Account(row.population, policy, ledger, question.times)
    if question.what == "caps":
        caps = account.caps()
        return json.dumps([(c.covers, c.delta, c.spent, c.limit) for c in caps])
    if question.what == "admit":
        admit(charter, name, account)
        return ""
    digest = charter.digest().hex()
    account.require_room(Asked(plan, digest))
    if question.what == "room":
        return ""
    assert ledger is not None
    after = ledger.reserve(
        plan,
        run=charter.run,
        round=question.round,
        charter=digest,
        state_digest=question.state_digest,
        weight=row.weight,
        cap_epsilon=policy.epsilon,
        allow_without_dp=policy.allow_without_dp,
        max_lost_charges=policy.max_lost_charges,
    )
    return after.entries[-1].decode()


def take_caps(said: str) -> list[tuple[str, float, float, float]]:
    """(what it covers, delta, spent, limit) of each cap; inf where nothing bounds it."""
    return [(str(of), *map(float, figures)) for of, *figures in json.loads(said)]


def reply(line: str | bytes) -> str:
    """The line that answers a question's, or says what `answer` raised."""
    try:
        return json.dumps({"answer": answer(Question.from_json(line))})
    except FeditError as error:
        kind = next(k.__name__ for k in type(error).__mro__ if k.__name__ in _ERRORS)
        return json.dumps({"error": kind, "text": str(error)})


def take_reply(line: str | bytes) -> str:
    """The answer in it; raises what `answer` raised."""
    said: dict[str, str] = json.loads(line)
    if "answer" in said:
        return said["answer"]
    raise _ERRORS[said["error"]](said["text"])


if __name__ == "__main__":
    # Ctrl-C is for the daemon, which closes our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A daemon that was killed hears no answer, and its log no complaint about that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for asked in sys.stdin.buffer:
        sys.stdout.write(reply(asked) + "\n")
        sys.stdout.flush()
