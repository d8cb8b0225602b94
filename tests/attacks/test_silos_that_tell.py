"""The inspection of `test_what_leaves_a_silo.py` notices each of these silos.

Each tells something more than a silo does: a loss, a count, a size, a time.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from attacks.differences import differences
from attacks.fixed_chance import PARTY
from attacks.seen import VICTIM
from attacks.worlds import INDEX, World

from fedit_secure.secagg.transcript import digest
from fedit_secure.silo.books import Books
from fedit_secure.silo.daemon import SiloDaemon
from fedit_secure.silo.slots import Slots
from fedit_secure.tuning import dp_step
from fedit_secure.tuning.batches import poisson_units
from fedit_secure.tuning.job import DataSource, Progress
from fedit_secure.tuning.records import load_records
from fedit_secure.wire import frames as f


def telling_log(note: Callable[[str], None]) -> dict[str, Any]:
    """The loss of each physical batch."""
    plain = dp_step.summed_loss

    def summed_loss(*args: Any, **named: Any) -> Any:
        loss = plain(*args, **named)
        note(f"loss {loss.item():.3f}")
        return loss

    return {"fedit_secure.tuning.dp_step.summed_loss": summed_loss}


def loss_in_the_log() -> dict[str, Any]:
    log = logging.getLogger("fedit_secure.tuning.dp_step")
    return telling_log(log.info)


def batch_size_in_an_event() -> dict[str, Any]:
    sizes: list[int] = []

    def drawn(*args: Any) -> Any:
        slots = poisson_units(*args)
        sizes.append(len(slots))
        return slots

    def progress(phase: str, step: int, of: int) -> Progress:
        return Progress(f"{phase} {sizes[-1]} records", step, of)

    where = "fedit_secure.tuning.local_round"
    return {f"{where}.poisson_units": drawn, f"{where}.Progress": progress}


def say_when_ready(say: Callable[[SiloDaemon], Any]) -> dict[str, Any]:
    """Something more before each Ready of the victim."""
    plain = SiloDaemon._report_ready

    async def report(daemon: SiloDaemon) -> None:
        if PARTY.get() == VICTIM:
            await say(daemon)
        await plain(daemon)

    return {"fedit_secure.silo.daemon.SiloDaemon._report_ready": report}


def zeroed_count_in_a_message() -> dict[str, Any]:
    counts = [0]
    plain = dp_step.BatchGradient.close

    def close(gradients: dp_step.BatchGradient) -> None:
        counts.append(gradients.zeroed)
        plain(gradients)

    async def say(daemon: SiloDaemon) -> None:
        await daemon.send(f.Withdraw(1, 0, f"{counts[-1]} records were zeroed"))

    patches = say_when_ready(say)
    return patches | {"fedit_secure.tuning.dp_step.BatchGradient.close": close}


def a_message_for_each_batch() -> dict[str, Any]:
    batches = count()
    plain = dp_step.BatchGradient._pass

    def one(gradients: dp_step.BatchGradient, *batch: Any) -> Any:
        next(batches)
        return plain(gradients, *batch)

    async def say(daemon: SiloDaemon) -> None:
        for _ in range(next(batches)):
            await daemon.send(f.Phase(1, "tuning"))

    patches = say_when_ready(say)
    return patches | {"fedit_secure.tuning.dp_step.BatchGradient._pass": one}


def elapsed_time_in_the_log() -> dict[str, Any]:
    plain, log = Slots.next, logging.getLogger("fedit_secure.silo.daemon")

    async def slot(slots: Slots) -> None:
        log.info("done after %.3f seconds", time.monotonic() - slots._began)
        await plain(slots)

    return {"fedit_secure.silo.slots.Slots.next": slot}


def ready_at_once() -> dict[str, Any]:
    async def slot(slots: Slots) -> None:
        return

    return {"fedit_secure.silo.slots.Slots.next": slot}


def update_without_salt_in_the_ledger() -> dict[str, Any]:
    return {"fedit_secure.silo.books.digest": lambda _, *parts: digest("", parts[-1])}


def loss_on_standard_output() -> dict[str, Any]:
    losses = [""]
    patches = telling_log(losses.append)

    async def say(_: SiloDaemon) -> None:
        print(json.dumps({"round": 1, "silo": VICTIM, "phase": losses[-1]}))  # noqa: T201

    return patches | say_when_ready(say)


def count_in_the_opening() -> dict[str, Any]:
    plain = Books.check

    def check(books: Books, *records: Any) -> None:
        size = len(load_records(DataSource(path=SOURCE[0])))
        books._policy = books._policy.model_copy(update={"epsilon": 8.0 + size})
        plain(books, *records)

    return {"fedit_secure.silo.books.Books.check": check}


SOURCE = [""]
TELLING = {
    loss_in_the_log: "the log",
    loss_on_standard_output: "says",
    batch_size_in_an_event: "says",
    zeroed_count_in_a_message: "Withdraw.reason",
    a_message_for_each_batch: "message",
    elapsed_time_in_the_log: "the log",
    ready_at_once: "message",
    update_without_salt_in_the_ledger: "Committed.update_digest",
    count_in_the_opening: "Opened.cap_epsilon",
}


def test_silos_that_tell_nothing_pass(world: World) -> None:
    one, two = (world.watch(f"quiet {d}", d, "short") for d in ("usual", "few"))
    assert differences(one, two, INDEX, ideal=True) == []


@pytest.mark.parametrize("telling", TELLING, ids=lambda f: f.__name__)
def test_a_silo_that_tells_more_is_noticed(
    world: World, telling: Callable[[], dict[str, Any]]
) -> None:
    seen = []
    for data in ("usual", "few"):
        SOURCE[0] = str(world.data[data])
        name = f"{telling.__name__} {data}"
        seen.append(world.watch(name, data, "short", patches=telling()))
    found = differences(*seen, INDEX, ideal=True)
    assert any(TELLING[telling] in difference for difference in found), found
