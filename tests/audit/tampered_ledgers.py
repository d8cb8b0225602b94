"""Tampered ledgers, and heads of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from audit.capping import cap_changed
from audit.forge import Chain, Evidence, Run, signed_head
from audit.parties import HUB, drawn, found, key_of
from audit.tampered import (
    changed,
    frame,
    honest,
    instead,
    put,
    run_of,
    signed,
    tampered,
)

from fedit_secure.audit.bundle import SeenHead, SeenHeads
from fedit_secure.privacy import events as e
from fedit_secure.secagg import messages as m

# Of a silo that takes part in every round, entry 1 opens the ledger, and each round has five:
# intent, committed, masked, revealed, released. Those of round 2 are 7 to 11.


def chained(entries: Iterable[bytes], silo: str = "s1") -> Chain:
    chain = Chain(f"patients of {silo}")
    for entry in entries:
        chain.add(entry)
    return chain


def with_field(event: e.Event, **fields: Any) -> bytes:
    """The entry with fields that the schema doesn't have."""
    content = json.loads(event.to_bytes()) | fields
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


# ---------------------------------------------------------------------------- ledgers


@tampered("ledger-missing", silo="s1")
def a_ledger_left_out() -> Evidence:
    """The aggregator leaves silo s1's ledger out."""
    evidence = honest()
    del evidence.files["ledgers/s1.jsonl"]
    return evidence


@tampered("entry-malformed", silo="s1", entry=8)
def a_loss_in_the_ledger() -> Evidence:
    """Silo s1 writes a loss into its ledger, where nothing of the records may be."""
    lie = instead("s1", e.Committed, lambda c: [with_field(c, loss=0.7)], nth=2)
    return run_of(lie)


@tampered("entry-malformed", silo="s1", entry=7)
def an_entry_in_other_bytes() -> Evidence:
    """Silo s1 writes an entry with a space in it, so that it has two forms."""
    lie = lambda i: [i.to_bytes().replace(b",", b", ", 1)]  # noqa: E731
    return run_of(instead("s1", e.Intent, lie, nth=2))


@tampered("entry-of-another", silo="s1", entry=1)
def a_ledger_of_other_records() -> Evidence:
    """Silo s1 charges a population that nobody asked for, and spares its own."""
    return run_of(instead("s1", e.Opened, changed(population="volunteers")))


@tampered("entry-of-another", silo="s1", entry=1)
def a_ledger_in_another_silos_name() -> Evidence:
    """Silo s1 opens its ledger in the name of silo s2."""
    return run_of(instead("s1", e.Opened, changed(silo="s2")))


@tampered("entry-of-another", silo="s1")
def a_ledger_of_another_key() -> Evidence:
    """Silo s1 opens its ledger with a key that isn't the one that the charter pins."""
    other = key_of("stranger").public.hex()
    return run_of(instead("s1", e.Opened, changed(identity=other)))


@tampered("entry-impossible", silo="s1", entry=9)
def two_updates_of_one_charge() -> Evidence:
    """Silo s1 tunes twice in round 2, and charges it once."""
    twice = lambda c: [c, c.model_copy(update={"update_digest": "0a" * 32})]  # noqa: E731
    return run_of(instead("s1", e.Committed, twice, nth=2))


@tampered("entry-impossible", silo="s1", entry=11)
def an_attempt_voided_after_its_reveal() -> Evidence:
    """Silo s1 reveals, and then says that it never will."""
    lie = lambda r: [r, e.Voided(ctx=r.ctx)]  # noqa: E731
    return run_of(instead("s1", e.Revealed, lie, nth=2))


@tampered("entry-impossible", silo="s1", entry=12)
def a_ledger_opened_anew() -> Evidence:
    """Silo s1 opens its ledger again after round 2, with a cap of its own choice."""
    first: list[e.Event] = []

    def writes(silo: str, event: e.Event) -> Iterable[e.Event | bytes]:
        if silo == "s1" and isinstance(event, e.Opened):
            first.append(event.model_copy(update={"cap_epsilon": 99.0}))
        over = isinstance(event, e.Released) and event.round == 2
        return [event, first[0]] if silo == "s1" and over else [event]

    return run_of(writes)


@tampered("entry-impossible", silo="s1", entry=12)
def a_charge_for_a_round_that_is_over() -> Evidence:
    """Silo s1 enters the charge of round 3 as a second one of round 1."""
    return run_of(instead("s1", e.Intent, changed(round=1), nth=3))


@tampered("entry-unsigned", silo="s1", entry=7)
def a_key_of_ones_own() -> Evidence:
    """Silo s1's ledger rotates to a key that raises the cap, and back again."""
    run = Run(found())
    run.released()
    own, other = key_of("s1").public.hex(), key_of("stranger").public.hex()
    run.write("s1", e.KeyRotated(old=own, new=other, signature="00" * 64))
    run.write("s1", cap_changed(run, "s1", 8.0, 99.0, by="stranger"))
    run.write("s1", e.KeyRotated(old=other, new=own, signature="00" * 64))
    run.released()
    run.released()
    return run.end()


@tampered("head-unsigned", silo="s1")
def a_head_signed_by_the_aggregator() -> Evidence:
    """The aggregator signs the head of silo s1's ledger for it."""
    evidence = honest()
    evidence.put_head(signed_head("s1", evidence.chains["s1"].head(), by=HUB))
    return evidence


@tampered("head-uncountersigned", silo="s1")
def a_head_countersigned_by_its_silo() -> Evidence:
    """Silo s1 signs for the aggregator that it holds the ledger."""
    evidence = honest()
    evidence.put_head(signed_head("s1", evidence.chains["s1"].head(), counter="s1"))
    return evidence


@tampered("ledger-altered", silo="s1")
def a_charge_edited_by_the_aggregator() -> Evidence:
    """The aggregator writes more noise into silo s1's last charge."""
    evidence = honest()
    entries = list(evidence.chains["s1"].entries)
    entries[11] = entries[11].replace(
        b'"noise_multiplier":2.0', b'"noise_multiplier":9.0'
    )
    evidence.files["ledgers/s1.jsonl"] = chained(entries).to_bytes()
    return evidence


@tampered("ledger-altered", silo="s1")
def an_entry_left_out_by_the_aggregator() -> Evidence:
    """The aggregator takes the end of the last round out of silo s1's ledger, and puts
    another in its place."""
    evidence = honest()
    entries = list(evidence.chains["s1"].entries)
    entries[-1] = entries[-1].replace(b'"state_digest":"', b'"state_digest":"f00d')
    last = json.loads(entries[-1])
    last["state_digest"] = last["state_digest"][:64]
    entries[-1] = json.dumps(last, sort_keys=True, separators=(",", ":")).encode()
    evidence.files["ledgers/s1.jsonl"] = chained(entries).to_bytes()
    return evidence


@tampered("ledger-altered", silo="s1")
def a_charge_added_by_the_aggregator() -> Evidence:
    """The aggregator adds an entry to silo s1's ledger behind its head."""
    evidence = honest()
    entries = list(evidence.chains["s1"].entries)
    audit = e.DataVersion(old=drawn("records of s1").hex(), new="00" * 32)
    chain = chained([*entries, audit.to_bytes()])
    evidence.files["ledgers/s1.jsonl"] = chain.to_bytes()
    return evidence


@tampered("ledger-cut", silo="s1")
def a_ledger_cut_at_an_older_head() -> Evidence:
    """The aggregator shows silo s1's ledger as it stood before its last entry, with the
    head that both signed then. Silo s1's claim is about all of it."""
    evidence = honest()
    claim = evidence.files["claims/s1.claim"]
    evidence.put_ledger("s1", chained(evidence.chains["s1"].entries[:-1]))
    evidence.files["claims/s1.claim"] = claim
    return evidence


@tampered("ledger-cut", silo="s1")
def a_ledger_cut_before_an_advert() -> Evidence:
    """Silo s1 and the aggregator show its ledger up to the end of round 2, with a head and
    a claim of then. The other silos agreed on an advert in round 3 that says more."""
    evidence = honest()
    evidence.put_ledger("s1", chained(evidence.chains["s1"].entries[:11]))
    evidence.put_claim("s1")
    return evidence


# ------------------------------------------------------------------------------ heads


def seen_head(silo: str, head: m.LedgerHead) -> SeenHeads:
    shown = SeenHead(
        silo=silo,
        population=head.population,
        sequence=head.sequence,
        hash=head.hash.hex(),
    )
    return SeenHeads(heads=(shown,))


@tampered("ledger-forked", silo="s1")
def a_fork_shown_to_the_peers() -> Evidence:
    """In round 2, silo s1 advertises the head of another history than it handed over."""
    run = Run(found())
    run.released()
    everybody = run.world.names
    run.charge(everybody)
    run.commit(everybody)
    own = run.chains["s1"]
    other = chained(
        [*own.entries[:-1], own.entries[-1].replace(b'"round":2', b'"round":9')]
    )
    attempt = run.attempt(everybody, heads={"s1": other.head()})
    attempt.mask(everybody)
    attempt.reveal(everybody)
    attempt.publish(everybody, agreed=everybody)
    run.confirm(everybody)
    run.close(everybody)
    run.released()
    return run.end()


@tampered("ledger-forked", silo="s1")
def a_history_that_a_peer_saw_otherwise() -> Evidence:
    """Silo s0 was shown another entry 6 of silo s1's ledger than the bundle has."""
    evidence = honest()
    seen = m.LedgerHead("patients of s1", 6, drawn("another history"))
    evidence.put_seen("s0", seen_head("s1", seen))
    return evidence


@tampered("ledger-cut", silo="s1")
def a_longer_history_that_a_peer_saw() -> Evidence:
    """Silo s0 was shown entry 18 of silo s1's ledger, of which the bundle has 16."""
    evidence = honest()
    seen = m.LedgerHead("patients of s1", 18, drawn("a longer history"))
    evidence.put_seen("s0", seen_head("s1", seen))
    return evidence


@tampered("ledger-forked", silo="s1")
def a_history_rewritten_after_the_run() -> Evidence:
    """Silo s1 and the aggregator write its ledger anew, without the second charge of round
    1, and sign it. The adverts that its peers agreed on stay as they are."""
    run = Run(found())
    run.released(again=["s1"])
    run.released()
    run.released()
    evidence = run.end()
    entries = list(evidence.chains["s1"].entries)
    del entries[2]
    evidence.put_ledger("s1", chained(entries))
    evidence.put_claim("s1")
    return evidence


@tampered("adverts-differ", round=2)
def a_history_rewritten_with_its_adverts() -> Evidence:
    """As before, and they also sign new adverts that fit. But the other silos' agreements
    are on the old ones."""
    run = Run(found())
    run.released(away=["s1"])
    run.released(again=["s1"])
    run.released(away=["s1"])
    evidence = run.end()
    entries = list(evidence.chains["s1"].entries)
    del entries[2]
    chain = chained(entries)
    old = frame(evidence, 2, "adverts.frame")
    adverts = list(old.adverts)
    adverts[1] = signed("s1", adverts[1], ledger_head=chain.head(3))
    put(evidence, 2, "adverts.frame", signed(HUB, old, adverts=tuple(adverts)))
    evidence.put_ledger("s1", chain)
    evidence.put_claim("s1")
    return evidence


def went_back(summed: tuple[str, ...]) -> Evidence:
    """A run in whose round 3 silo s1 advertises its head of round 1."""
    run = Run(found())
    run.released()
    old = run.chains["s1"].head()
    run.released()
    everybody = run.world.names
    run.charge(everybody)
    run.commit(everybody)
    attempt = run.attempt(everybody, heads={"s1": old})
    attempt.mask(everybody)
    attempt.reveal(everybody)
    attempt.publish(summed, agreed=everybody)
    run.confirm(everybody)
    run.close(everybody)
    return run.end()


@tampered("ledger-rolled-back", silo="s1", round=3)
def a_head_that_went_back() -> Evidence:
    """In round 3 silo s1 advertises a head from before round 2, of an old backup. Its
    upload doesn't arrive."""
    return went_back(("s0", "s2", "s3"))


@tampered("ledger-rolled-back", silo="s1", round=3, also={"intent-missing"})
def an_old_backup_in_a_sum() -> Evidence:
    """As before, but it does: the head that everybody saw has no charge for it."""
    return went_back(("s0", "s1", "s2", "s3"))
