"""What must hold of a silo's books, and of all that it ever said, however often it died."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from faults.crashing import assert_answered_once, ends_of
from faults.process_federation import ROUNDS, VICTIM, Story, copy_of
from streams import step_of

from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.federation.update import apply_update, to_float32
from fedit_secure.privacy.ledger import Committed, Intent, Ledger
from fedit_secure.storage.journal import Journal


def ledger_in(state: Path) -> tuple[bytes, ...]:
    """The victim's ledger in a state folder; empty if there is none yet."""
    path = state / "journal.sqlite"
    if not path.exists():
        return ()
    with Journal.open(path) as journal:
        return journal.ledger(VICTIM)


def charged(entries: Sequence[bytes]) -> Counter[int]:
    """How often each round was charged."""
    if not entries:
        return Counter()
    ledger = Ledger.from_entries(VICTIM, entries)
    return Counter(event.round for event in ledger.events if isinstance(event, Intent))


def assert_charged_for_all(
    entries: Sequence[bytes], sampled: Sequence[tuple[int, int]]
) -> None:
    """The charge is never below what was spent."""
    charges, spent = charged(entries), Counter(round for round, _ in sampled)
    for round, times in spent.items():
        assert charges[round] >= times, f"round {round}: sampled {times} times"


def look(story: Story, life: int) -> tuple[bytes, ...]:
    """Right after a death, before anybody repairs anything: the ledger opens, and every
    tuning that had begun is charged in it."""
    entries = ledger_in(copy_of(story, f"after{life}"))
    assert_charged_for_all(entries, story.sampled)
    return entries


def check(story: Story) -> None:
    """Everything, at the end of a story."""
    entries = ledger_in(copy_of(story, "end"))
    assert_charged_for_all(entries, story.sampled)
    _assert_no_charge_without_cause(story, entries)
    _assert_copies_agree(story, entries)
    assert_answered_once(story.front, ROUNDS)
    if story.state is not None:
        _assert_sums(story)
        for report in story.reports:
            if report.status == 0:
                assert report.state == story.state.digest().hex()


def _assert_no_charge_without_cause(story: Story, entries: Sequence[bytes]) -> None:
    """A round is charged again only for a tuning that a death cut off: never once its
    update is there, and at most once a life."""
    if not entries:
        return
    open_charges, done, lost = 0, set(), 0
    for event in Ledger.from_entries(VICTIM, entries).events:
        if isinstance(event, Intent):
            assert event.round not in done, "charged for an update that was there"
            lost += open_charges
            open_charges = 1
        elif isinstance(event, Committed):
            done.add(event.round)
            open_charges = 0
    assert lost + open_charges <= len(story.ends)
    assert lost <= len(story.ends) - 1, "a charge that no death was the cause of"


def _assert_copies_agree(story: Story, entries: Sequence[bytes]) -> None:
    """The aggregator never saw an entry that isn't there any more."""
    path = story.federation.root / "run" / "ledgers" / f"{VICTIM}.jsonl"
    held = path.read_bytes().splitlines() if path.exists() else []
    assert tuple(held) == tuple(entries[: len(held)])


def _assert_sums(story: Story) -> None:
    """The last state follows from the published sums alone, and each of these is what
    its contributors tuned, up to the rounding."""
    federation = story.federation
    params = federation.charter.secagg_params()
    folder = RunFolder(federation.root / "run", federation.charter, federation.initial)
    state, mean = federation.initial, np.zeros(params.length)
    bound = 0.0
    for round in range(1, ROUNDS + 1):
        names = ends_of(federation, round)
        assert names is not None
        if not names:
            continue
        published = folder.published(round)
        assert published is not None
        state = apply_update(state, published.total, params, published.contributors)
        mean = mean + federation.mean_of(round, list(names))
        bound += step_of(params) + 2.0**-24
    assert story.state is not None
    assert state.digest() == story.state.digest()
    assert np.abs(to_float32(state) - mean).max() <= bound
