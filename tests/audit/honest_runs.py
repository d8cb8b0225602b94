"""Honest runs, in which everything goes wrong that may: each is to pass its audit."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from audit.capping import cap_changed
from audit.forge import Evidence, Run, signed_head
from audit.parties import drawn, found

from fedit_secure.audit.bundle import SeenHead, SeenHeads
from fedit_secure.privacy import events as e

Story = Callable[[], Evidence]
STORIES: dict[str, Story] = {}
FROM_ROUNDS = ("heads", "rounds", "sums", "charges", "adapters")
LACKS: dict[str, set[str]] = {}
"""By story, the claims that it can't show, where it doesn't show all."""


def story(tell: Story) -> Story:
    """Keep a story under its name."""
    STORIES[tell.__name__] = tell
    return tell


def lacking(*claims: str) -> Callable[[Story], Story]:
    """Keep a story that has no evidence of these claims."""

    def keep(tell: Story) -> Story:
        LACKS[tell.__name__] = set(claims)
        return story(tell)

    return keep


@story
def a_plain_run() -> Evidence:
    run = Run(found())
    for _ in range(3):
        run.released()
    return run.end()


@story
def silos_that_drop_out_in_every_phase() -> Evidence:
    run = Run(found(silos=6, rounds=4))
    run.released(lost=["s5"])
    run.released(away=["s4"], blind=["s0"])
    run.released(late=["s3"])
    run.released(lost=["s0", "s1"])
    return run.end()


@story
def a_silo_that_comes_when_all_is_over() -> Evidence:
    """It is never charged, so it has nothing to claim."""
    run = Run(found(rounds=2))
    run.released(away=["s3"])
    run.released(away=["s3"])
    return run.end()


@story
def attempts_that_were_voided_and_renewed() -> Evidence:
    run = Run(found(rounds=2))
    run.charge(run.world.names)
    run.commit(run.world.names)
    everybody = run.world.names
    first = run.attempt(everybody)
    first.void(everybody)  # before anybody masked
    second = run.attempt(everybody)
    second.mask(["s0", "s1", "s2"])
    second.void(everybody)
    second.renew(["s0", "s1", "s2"])
    third = run.attempt(everybody)
    third.mask(everybody)
    third.reveal(everybody)
    third.publish(everybody, agreed=everybody)
    run.confirm(everybody)
    run.close(everybody)
    run.released()
    return run.end()


@story
def a_silo_that_died_after_its_upload_was_whole() -> Evidence:
    """It voids the attempt when it starts again, and its update is in the sum."""
    run = Run(found(rounds=2))
    everybody, others = run.world.names, ["s0", "s1", "s2"]
    run.charge(everybody)
    run.commit(everybody)
    attempt = run.attempt(everybody)
    attempt.mask(everybody)
    attempt.reveal(others)
    attempt.publish(everybody, agreed=others)
    attempt.void(["s3"])
    run.confirm(others)
    run.close(everybody, blind=["s3"])
    run.released()
    return run.end()


@story
def a_silo_that_died_before_its_upload_was_whole() -> Evidence:
    """It voids the attempt when it starts again; the others go on without it."""
    run = Run(found(rounds=2))
    everybody, others = run.world.names, ["s0", "s1", "s2"]
    run.charge(everybody)
    run.commit(everybody)
    attempt = run.attempt(everybody)
    attempt.mask(everybody)
    attempt.void(["s3"])
    attempt.reveal(others)
    attempt.publish(others, agreed=others)
    run.confirm(others)
    run.close(everybody, blind=["s3"])
    run.released()
    return run.end()


@story
def a_silo_that_was_away_for_two_ends_after_its_reveal() -> Evidence:
    """Its ledger never says how round 1 ended, in which its update is in the sum."""
    run = Run(found(rounds=3))
    everybody, others = run.world.names, ["s0", "s1", "s2"]
    run.charge(everybody)
    run.commit(everybody)
    attempt = run.attempt(everybody)
    attempt.mask(everybody)
    attempt.reveal(everybody)
    attempt.publish(everybody, agreed=everybody)
    run.confirm(others)
    run.close(others)
    run.released(away=["s3"])
    run.released()
    return run.end()


@lacking("epsilon")
def a_silo_that_never_came_back() -> Evidence:
    """It dies after its upload. The aggregator has its ledger as it was when the silo was
    ready, and no claim."""
    run = Run(found(rounds=2))
    run.released()
    everybody, others = run.world.names, ["s0", "s1", "s2"]
    run.charge(everybody)
    run.commit(everybody)
    attempt = run.attempt(everybody)
    attempt.mask(others)
    attempt.reveal(others)
    attempt.publish(everybody, agreed=others)
    run.confirm(others)
    run.close(others)
    return run.end(vanished=["s3"])


@story
def an_aggregator_that_started_many_times() -> Evidence:
    run = Run(found(rounds=2))
    run.numbers = count(38)
    run.released()
    run.released()
    return run.end()


@story
def rounds_that_are_drawn_for_some() -> Evidence:
    """The rest sits them out, uncharged; one that is drawn drops out, and is charged."""
    run = Run(found(silos=6, rounds=5, per_round=4))
    run.released()
    run.released(lost=run.drawn[1:2])
    run.skipped()
    run.released(away=run.drawn[:1])
    run.released(late=run.drawn[2:3])
    return run.end()


@story
def rounds_that_were_skipped() -> Evidence:
    run = Run(found(rounds=4, spares=0))
    run.skipped()
    run.released()
    run.charge(run.world.names)
    run.commit(run.world.names)
    run.attempt(run.world.names).void(run.world.names)
    run.skip(confirmed=["s0", "s1", "s3"])
    run.released()
    return run.end()


@story
def a_round_skipped_although_its_sum_was_published() -> Evidence:
    """Nobody came to confirm it: what the aggregator kept of it says nothing."""
    run = Run(found(rounds=2))
    everybody = run.world.names
    run.charge(everybody)
    run.commit(everybody)
    attempt = run.attempt(everybody)
    attempt.mask(everybody)
    attempt.reveal(everybody)
    attempt.publish(everybody, agreed=everybody)
    run.skip()
    run.released()
    return run.end()


@story
def silos_that_died_while_they_tuned() -> Evidence:
    run = Run(found(rounds=3, spares=2))
    run.released(again=["s1"])
    run.released(again=["s0", "s1"])
    run.released()
    return run.end()


@story
def a_silo_whose_budget_was_used_up() -> Evidence:
    """Its spare charge went first, then it was charged for the last round's."""
    run = Run(found(rounds=3, spares=1))
    run.released(again=["s2"])
    run.released(again=["s2"])
    run.released(away=["s2"])
    return run.end()


@story
def a_charge_whose_end_the_silo_never_saw() -> Evidence:
    """It was away while a round ended, and while the next one did."""
    run = Run(found(rounds=3))
    run.charge(run.world.names)
    ready = ["s0", "s1", "s2"]
    run.commit(ready)
    attempt = run.attempt(ready)
    attempt.mask(ready)
    attempt.reveal(ready)
    attempt.publish(ready, agreed=ready)
    run.confirm(ready)
    run.close(ready)
    run.released(away=["s3"])
    run.released()
    return run.end()


@story
def a_run_that_stopped_early() -> Evidence:
    run = Run(found(rounds=7))
    run.released()
    run.released()
    return run.end()


@lacking(*FROM_ROUNDS)
def a_run_in_which_nothing_happened() -> Evidence:
    return Run(found()).end()


@story
def records_that_changed() -> Evidence:
    run = Run(found(rounds=2))
    run.released()
    old, new = drawn("records of s1").hex(), drawn("more records of s1").hex()
    run.write("s1", e.DataVersion(old=old, new=new))
    run.released()
    return run.end()


@story
def a_cap_that_was_lowered_and_raised() -> Evidence:
    run = Run(found(rounds=3))
    run.released()
    run.write("s1", cap_changed(run, "s1", 8.0, 2.5))
    run.released()
    run.write("s1", cap_changed(run, "s1", 2.5, 9.0))
    run.released()
    return run.end()


@story
def a_cap_that_came_later() -> Evidence:
    run = Run(found(rounds=2), cap=None)
    run.released()
    run.write("s1", cap_changed(run, "s1", None, 9.0))
    run.released()
    return run.end()


@story
def a_canary_audit_in_between() -> Evidence:
    run = Run(found(rounds=2))
    run.released()
    run.write(
        "s1",
        e.AuditRun(
            records="synthetic",
            data_digest=drawn("canaries").hex(),
            sample_rate=1.0,
            noise_multiplier=1.5,
            clip=1.0,
            expected_batch=64,
            steps=1,
        ),
    )
    run.released()
    return run.end()


@story
def a_second_charter_on_the_same_records() -> Evidence:
    before = Run(found(rounds=2))
    before.released()
    before.released(away=["s3"])
    world = found(rounds=2, predecessor=before.charter)
    run = Run(world, chains=before.chains)
    run.released()
    run.released()
    return run.end()


@story
def no_privacy_was_promised() -> Evidence:
    run = Run(found(rounds=2, kind="none"), cap=None)
    run.released()
    run.released(again=["s0"])
    return run.end()


@story
def persons_are_protected() -> Evidence:
    run = Run(found(rounds=2, unit="person"))
    run.released()
    run.released()
    return run.end()


@story
def sizes_are_secret() -> Evidence:
    run = Run(found(rounds=2, sizes="secret"))
    run.released()
    run.released(again=["s3"])
    return run.end()


@story
def silos_of_different_sizes() -> Evidence:
    sizes = (100, 200, 50, 400, 100)
    run = Run(found(5, rounds=2, records=sizes, weights=sizes, noise=(2, 1.5, 2, 1, 3)))
    run.released()
    run.released(lost=["s3"])
    return run.end()


@story
def two_silos_only() -> Evidence:
    run = Run(found(silos=2, rounds=2))
    run.released()
    run.released(again=["s1"])
    return run.end()


@story
def no_cap_was_set() -> Evidence:
    run = Run(found(rounds=1), cap=None)
    run.released()
    return run.end()


@story
def peers_that_saw_the_heads() -> Evidence:
    """Every silo hands out what it saw of its peers, each at another time."""
    run = Run(found(rounds=2))
    run.released()
    seen = {name: run.chains[name].head() for name in run.world.names}
    run.released()
    evidence = run.end()
    for name in run.world.names:
        heads = [
            SeenHead(
                silo=peer,
                population=head.population,
                sequence=head.sequence,
                hash=head.hash.hex(),
            )
            for peer, head in seen.items()
            if peer != name
        ]
        evidence.put_seen(name, SeenHeads(heads=tuple(heads)))
    return evidence


# ------------------------------------------------------------- bundles that show less


def without(*files: str) -> Evidence:
    """A run of which some files were lost before the bundle was made."""
    run = Run(found(rounds=2))
    run.released()
    run.released()
    evidence = run.end()
    for file in files:
        del evidence.files[file]
    return evidence


@lacking("charter")
def no_cards_were_kept() -> Evidence:
    return without(*(f"cards/{name}.card" for name in ("s0", "s1", "s2", "s3", "hub")))


@lacking("epsilon")
def one_claim_was_lost() -> Evidence:
    return without("claims/s2.claim")


@lacking("ledgers")
def one_head_was_lost() -> Evidence:
    return without("heads/s2.json")


@lacking("adapters")
def the_first_state_was_lost() -> Evidence:
    return without("initial.state")


@lacking("adapters")
def the_adapters_were_lost() -> Evidence:
    return without("adapters.json")


@lacking("ledgers")
def a_head_without_a_receipt() -> Evidence:
    """Silo s1's last entries reached the aggregator, and its receipt not the bundle."""
    evidence = without()
    head = evidence.chains["s1"].head()
    evidence.put_head(signed_head("s1", head, counter=None))
    return evidence


@lacking(*FROM_ROUNDS)
def a_silos_own_bundle() -> Evidence:
    """Silo s1 hands out what it has: its own papers, and what it saw of its peers."""
    return of_silo(peers_that_saw_the_heads(), "s1")


def of_silo(evidence: Evidence, silo: str) -> Evidence:
    """What a silo can export by itself."""
    own = ("charter.json", f"approvals/{silo}.approval", f"cards/{silo}.card")
    own += (f"ledgers/{silo}.jsonl", f"heads/{silo}.json", f"claims/{silo}.claim")
    own += (f"seen/{silo}.json",)
    files = {name: data for name, data in evidence.files.items() if name in own}
    return Evidence(evidence.world, evidence.chains, files, maker=silo)
