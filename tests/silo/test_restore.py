"""A ledger that was lost and is put back: whole, or with its whole cap charged."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable

import pytest
from small_federation import SmallFederation, found

from fedit_secure.errors import (
    BudgetExhausted,
    ConfigError,
    LedgerBehind,
    PolicyRefusal,
    StorageError,
)
from fedit_secure.federation.heads import sign_head
from fedit_secure.federation.policy import Policy
from fedit_secure.federation.signed_ledger import verified_ledger
from fedit_secure.privacy.ledger import CapChanged, Ledger, Lost
from fedit_secure.secagg.messages import LedgerHead
from fedit_secure.silo.ledger_opening import keep_receipt, open_journal
from fedit_secure.silo.restore import KnownHead, charge_full_cap, restore

VICTIM = "s3"
POLICY = Policy(epsilon=8.0, delta=1e-5, tell_record_count=True)


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> SmallFederation:
    """One round of all four silos is over."""
    federation = found(tmp_path_factory.mktemp("past"), 4)

    async def run() -> None:
        hub = federation.new_aggregator()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for party in federation.silos:
                group.create_task(federation.run_silo(party, lambda: hub))
            await hub.run()

    asyncio.run(run())
    return federation


@pytest.fixture
def copy(past: SmallFederation) -> tuple[bytes, ...]:
    """The aggregator's, once the victim's disk is gone."""
    shutil.rmtree(past.root / VICTIM, ignore_errors=True)
    lines = (past.root / "run" / "ledgers" / f"{VICTIM}.jsonl").read_bytes()
    return tuple(lines.splitlines())


def put_back(
    past: SmallFederation, entries: tuple[bytes, ...], known: KnownHead | None = None
) -> Ledger:
    key = past.silos[3].signing
    with open_journal(past.root / VICTIM) as journal:
        done = restore(journal, past.charter, VICTIM, key, entries, known)
        assert journal.ledger(VICTIM) == done.ledger.entries
        return done.ledger


def kept(past: SmallFederation) -> tuple[bytes, ...]:
    with open_journal(past.root / VICTIM) as journal:
        return journal.ledger(VICTIM)


def start_with(past: SmallFederation, entries: tuple[bytes, ...]) -> None:
    with open_journal(past.root / VICTIM) as journal:
        journal.commit(population=VICTIM, expected_sequence=0, entries=entries)


def signed(past: SmallFederation, ledger: Ledger, **change: object) -> KnownHead:
    head = LedgerHead(VICTIM, ledger.sequence, ledger.hash)
    hub, own = past.aggregator.signing, past.silos[3].signing
    fields = {
        "head": head,
        "signature": sign_head(own, VICTIM, head),
        "countersignature": sign_head(hub, VICTIM, head),
    }
    return KnownHead(**{**fields, **change})  # type: ignore[arg-type]


def test_every_charge_comes_back(
    past: SmallFederation, copy: tuple[bytes, ...]
) -> None:
    """Into a state folder that is new, beneath the heads that both have signed."""
    whole = verified_ledger(VICTIM, copy)
    assert whole.spent().published > 0
    again = put_back(past, copy, signed(past, whole))
    assert again == whole
    assert again.spent() == whole.spent()


@pytest.mark.parametrize("here", [1, 2, -1])
def test_it_goes_on_from_an_old_backup(
    past: SmallFederation, copy: tuple[bytes, ...], here: int
) -> None:
    start_with(past, copy[:here])
    assert put_back(past, copy).entries == copy


def test_restoring_again_changes_nothing(
    past: SmallFederation, copy: tuple[bytes, ...]
) -> None:
    put_back(past, copy)
    assert put_back(past, copy).entries == copy


def test_a_whole_ledger_keeps_its_charter_open(
    past: SmallFederation, copy: tuple[bytes, ...]
) -> None:
    """Nothing was lost, so nothing is closed."""
    start_with(past, copy)
    put_back(past, copy)
    with open_journal(past.root / VICTIM) as journal:
        past.books(past.silos[3], journal).check(bytes(32))


# -------------------------------------------------------------------- what it refuses


def edited(entry: bytes, **change: object) -> bytes:
    document = {**json.loads(entry), **change}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


BAD: dict[str, tuple[Callable[[tuple[bytes, ...]], tuple[bytes, ...]], str]] = {
    "nothing": (lambda c: (), "corrupt at entry 1: there is none"),
    "another_order": (lambda c: (*c[:1], c[2], c[1], *c[3:]), "corrupt at entry 2"),
    "without_its_opening": (lambda c: c[1:], "corrupt at entry 1"),
    "another_silos": (lambda c: (edited(c[0], silo="s2"), *c[1:]), "of silo 's2'"),
    "another_key": (
        lambda c: (edited(c[0], identity="ab" * 32), *c[1:]),
        r"under the key abababab",
    ),
    "another_population": (
        lambda c: (edited(c[0], population="s2"), *c[1:]),
        "opens the ledger of 's2'",
    ),
    "not_canonical": (
        lambda c: (c[0] + b" ", *c[1:]),
        "isn't canonical|aren't canonical",
    ),
}


@pytest.mark.parametrize("how", BAD)
def test_a_copy_that_is_no_ledger_of_this_silo(
    past: SmallFederation, copy: tuple[bytes, ...], how: str
) -> None:
    spoil, what = BAD[how]
    with pytest.raises(ConfigError, match=what):
        put_back(past, spoil(copy))
    assert kept(past) == ()


def test_attack_restore_shortens(
    past: SmallFederation, copy: tuple[bytes, ...]
) -> None:
    """An older copy, against the ledger that is here, the head beside it, a receipt."""
    whole = verified_ledger(VICTIM, copy)
    with pytest.raises(ConfigError, match=r"the head beside it has .* be shortened"):
        put_back(past, copy[:-1], signed(past, whole))
    assert kept(past) == ()
    start_with(past, copy)
    with pytest.raises(ConfigError, match=r"the ledger that is here has .* shortened"):
        put_back(past, copy[:-1])
    assert kept(past) == copy
    shutil.rmtree(past.root / VICTIM)
    start_with(past, copy[:1])
    known = signed(past, whole)
    assert known.countersignature is not None
    with open_journal(past.root / VICTIM) as journal:
        keep_receipt(journal, past.charter, known.head, known.countersignature)
    with pytest.raises(ConfigError, match=r"receipt that is here has .* shortened"):
        put_back(past, copy[:-1])
    assert kept(past) == copy[:1]


def test_attack_restore_forks(past: SmallFederation, copy: tuple[bytes, ...]) -> None:
    """As long as what is known, or longer, and not the same."""
    whole = verified_ledger(VICTIM, copy)
    other = (edited(copy[0], software="another"), *copy[1:])
    with pytest.raises(ConfigError, match="another history than the head beside it"):
        put_back(past, other, signed(past, whole))
    start_with(past, copy[:2])
    with pytest.raises(ConfigError, match="another history than the ledger that is"):
        put_back(past, other)
    assert kept(past) == copy[:2]


@pytest.mark.parametrize("which", ["signature", "countersignature"])
def test_a_head_that_they_did_not_sign(
    past: SmallFederation, copy: tuple[bytes, ...], which: str
) -> None:
    forged = signed(past, verified_ledger(VICTIM, copy), **{which: bytes(64)})
    with pytest.raises(ConfigError, match="isn't signed"):
        put_back(past, copy, forged)
    assert kept(past) == ()


# --------------------------------------------------------------- the fuses that are lost


async def test_attack_restored_silo_acts_again_under_its_charter(
    past: SmallFederation, copy: tuple[bytes, ...]
) -> None:
    """It may have masked, revealed or voided under this charter, and doesn't know. It
    says nothing more under it: neither an advert nor a void nor a confirmation."""
    put_back(past, copy)
    hub = past.new_aggregator()
    said: list[object] = []
    hub.on_connect = lambda *args: said.append(args)  # type: ignore[method-assign,assignment]
    with pytest.raises(PolicyRefusal, match="from the next charter epoch on"):
        await past.run_silo(past.silos[3], lambda: hub)
    assert said == []
    assert kept(past) == copy


def test_it_takes_part_again_under_the_next_charter(
    past: SmallFederation, copy: tuple[bytes, ...]
) -> None:
    """With everything that was spent under the last one."""
    put_back(past, copy)
    old = past.charter
    change = {"epoch": 2, "predecessor": old.digest().hex(), "run": "next"}
    past.charter = old.model_copy(update=change)
    try:
        with open_journal(past.root / VICTIM) as journal:
            books = past.books(past.silos[3], journal)
            books.admit(bytes(32))
            before = books.spent()
            assert before == verified_ledger(VICTIM, copy).spent().published > 0
            books.reserve(1)
            assert books.spent() > before
    finally:
        past.charter = old


def test_an_aggregators_charter_without_a_charge_is_closed_too(
    past: SmallFederation, copy: tuple[bytes, ...]
) -> None:
    """It may have voided or confirmed there without any update."""
    old = past.charter
    past.charter = old.model_copy(update={"run": "another"})
    try:
        put_back(past, copy)
        for charter in (old, past.charter):
            past.charter = charter
            with open_journal(past.root / VICTIM) as journal:
                books = past.books(past.silos[3], journal)
                with pytest.raises(PolicyRefusal, match="next charter epoch"):
                    books.check(bytes(32))
    finally:
        past.charter = old


# ------------------------------------------------------------------------- nobody has it


def lose_all(
    past: SmallFederation, reason: str = "the disk burnt", policy: Policy = POLICY
) -> Ledger:
    key = past.silos[3].signing
    with open_journal(past.root / VICTIM) as journal:
        done = charge_full_cap(
            journal, past.charter, VICTIM, key, policy, b"p" * 32, reason
        )
        assert journal.ledger(VICTIM) == done.ledger.entries
        return done.ledger


def test_the_whole_cap_is_charged(
    past: SmallFederation, copy: tuple[bytes, ...]
) -> None:
    """Every epsilon from then on is at least the cap, by every accountant."""
    ledger = lose_all(past)
    found = ledger.spent()
    assert found.published >= 8.0
    assert (found.pld, found.prv, found.rdp) == (8.0, 8.0, 8.0)
    assert isinstance(ledger.last, Lost)
    assert ledger.last.reason == "the disk burnt"
    again = verified_ledger(VICTIM, ledger.entries)
    assert again.spent() == found
    plan = past.charter.plan_for(VICTIM)
    with pytest.raises(BudgetExhausted, match="of the cap of 8 is spent"):
        again.require_budget(plan)
    assert again.would_cost(plan) > 8.0


def test_a_ledger_under_another_key_is_not_charged(
    past: SmallFederation, copy: tuple[bytes, ...]
) -> None:
    own, other = past.silos[3].signing, past.silos[0].signing
    with open_journal(past.root / VICTIM) as journal:
        restore(journal, past.charter, VICTIM, own, copy)
        with pytest.raises(ConfigError, match="under the key"):
            charge_full_cap(
                journal, past.charter, VICTIM, other, POLICY, b"p" * 32, "lost"
            )
        assert journal.ledger(VICTIM) == copy


def test_after_a_loss_a_higher_cap_makes_room_for_what_is_above_it(
    past: SmallFederation, copy: tuple[bytes, ...]
) -> None:
    plan = past.charter.plan_for(VICTIM)
    ledger = lose_all(past)
    alone = ledger.would_cost(plan) - 8.0
    assert alone >= plan.epsilons().published - 1e-6  # by the filter, from the first on
    for cap, fits in ((8.0 + alone + 0.01, True), (8.0 + alone - 0.01, False)):
        raised = ledger.append(
            CapChanged(cap_epsilon=cap, reason="agreed", signature="0" * 128)
        )
        if fits:
            raised.require_budget(plan)
        else:
            with pytest.raises(BudgetExhausted):
                raised.require_budget(plan)
    charged = ledger.append(
        CapChanged(cap_epsilon=99.0, reason="agreed", signature="0" * 128)
    ).reserve(
        plan, run="r", round=1, charter="0c" * 32, state_digest="0d" * 32, weight=1
    )
    assert charged.spent().published > 8.0


def test_without_a_cap_nothing_bounds_what_was_lost(
    past: SmallFederation, copy: tuple[bytes, ...]
) -> None:
    free = POLICY.model_copy(update={"epsilon": None})
    ledger = lose_all(past, policy=free)
    assert ledger.spent().published == float("inf")
    assert ledger.would_cost(past.charter.plan_for(VICTIM)) == float("inf")
    with pytest.raises(BudgetExhausted, match="epsilon inf"):
        ledger.require_budget(past.charter.plan_for(VICTIM), cap_epsilon=1e9)


def test_a_loss_is_charged_once_and_on_top_of_what_is_known(
    past: SmallFederation, copy: tuple[bytes, ...]
) -> None:
    start_with(past, copy[:2])
    before = verified_ledger(VICTIM, copy[:2]).spent()
    ledger = lose_all(past)
    assert ledger.entries[:2] == copy[:2]
    assert ledger.spent().published == pytest.approx(8.0 + before.published)
    with pytest.raises(ConfigError, match="is charged already"):
        lose_all(past)
    assert kept(past) == ledger.entries


def test_attack_full_cap_instead_of_a_ledger_that_is_known(
    past: SmallFederation, copy: tuple[bytes, ...]
) -> None:
    """A cap that was lowered beforehand isn't what the real ledger has spent."""
    whole = verified_ledger(VICTIM, copy)
    known = signed(past, whole)
    assert known.countersignature is not None
    with open_journal(past.root / VICTIM) as journal:
        keep_receipt(journal, past.charter, known.head, known.countersignature)
    with pytest.raises(LedgerBehind, match="restore"):
        lose_all(past, policy=POLICY.model_copy(update={"epsilon": 0.01}))


@pytest.mark.parametrize("reason", ["", "x" * 201, "two\nlines"])
def test_a_reason_is_a_line(
    past: SmallFederation, copy: tuple[bytes, ...], reason: str
) -> None:
    with pytest.raises(ConfigError, match="reason is one line"):
        lose_all(past, reason)
    assert kept(past) == ()


def test_a_full_cap_closes_the_charter(
    past: SmallFederation, copy: tuple[bytes, ...]
) -> None:
    lose_all(past)
    with open_journal(past.root / VICTIM) as journal:
        books = past.books(past.silos[3], journal)
        with pytest.raises(PolicyRefusal, match="next charter epoch"):
            books.check(b"p" * 32)


def test_attack_loss_below_the_cap(
    past: SmallFederation, copy: tuple[bytes, ...]
) -> None:
    """Another figure than the cap in force is no ledger, whoever signed it."""
    ledger = lose_all(past)
    cheap = edited(ledger.entries[-1], epsilon=0.5)
    with pytest.raises(StorageError, match="the whole cap in force"):
        verified_ledger(VICTIM, (*ledger.entries[:-1], cheap))
