"""Tampered rounds, states and adapters."""

from __future__ import annotations

import json

from audit.forge import Evidence, Run
from audit.parties import HUB, drawn, found
from audit.tampered import frame, honest, put, signed, tampered

from fedit_secure.audit.bundle import round_name
from fedit_secure.federation.update import GridState
from fedit_secure.secagg import messages as m


def without_round(evidence: Evidence, round: int) -> Evidence:
    """The bundle without a round, and without its adapter."""
    files = evidence.files
    for name in [n for n in files if n.startswith(f"rounds/{round:06d}/")]:
        del files[name]
    adapters = json.loads(files["adapters.json"])
    del adapters["by_round"][str(round)]
    data = json.dumps(adapters, indent=2, sort_keys=True).encode() + b"\n"
    files["adapters.json"] = data
    return evidence


@tampered("round-missing", round=2)
def a_round_left_out() -> Evidence:
    """The aggregator leaves round 2 out, which all ledgers speak of."""
    return without_round(honest(), 2)


@tampered("release-unknown", round=3)
def the_last_round_left_out() -> Evidence:
    """The aggregator says that the run stopped after round 2, and keeps round 3's sum to
    itself. The ledgers have it."""
    return without_round(honest(), 3)


@tampered("round-missing", round=2)
def a_round_without_its_certificate() -> Evidence:
    """The aggregator leaves out who confirmed round 2."""
    evidence = honest()
    del evidence.files[round_name(2, "certificate.frame")]
    return evidence


@tampered("round-unknown", round=4, also={"plan-overrun", "release-unknown"})
def a_round_more_than_the_charter_has() -> Evidence:
    """All of them go through a fourth round of three, on their spare charge."""
    run = Run(found(rounds=3, spares=1))
    for _ in range(4):
        run.released()
    return run.end()


@tampered("round-without-quorum", round=2)
def a_round_that_two_of_four_confirmed() -> Evidence:
    """Two silos confirmed round 2, where three must."""
    evidence = honest()
    word = frame(evidence, 2, "certificate.frame")
    few = m.RoundCertificate(2, word.confirmations[:2])
    put(evidence, 2, "certificate.frame", few)
    return evidence


@tampered("round-without-quorum", round=2)
def a_confirmation_counted_twice() -> Evidence:
    """The aggregator counts silo s0's confirmation of round 2 twice."""
    evidence = honest()
    said = frame(evidence, 2, "certificate.frame").confirmations
    put(evidence, 2, "certificate.frame", m.RoundCertificate(2, (said[0], *said[:2])))
    return evidence


@tampered("round-without-quorum", round=3)
def silos_that_confirmed_different_ends() -> Evidence:
    """Two silos confirmed one end of round 3, and two another."""
    evidence = honest()
    said = frame(evidence, 3, "certificate.frame").confirmations
    other = drawn("another state")
    split = [
        word if word.silo < 2 else signed(f"s{word.silo}", word, state_digest=other)
        for word in said
    ]
    put(evidence, 3, "certificate.frame", m.RoundCertificate(3, tuple(split)))
    return evidence


@tampered("confirmation-unsigned", round=2, silo="s3")
def a_confirmation_by_the_aggregator() -> Evidence:
    """The aggregator confirms round 2 for silo s3, which three others did."""
    evidence = honest()
    said = list(frame(evidence, 2, "certificate.frame").confirmations)
    said[3] = signed(HUB, said[3])
    put(evidence, 2, "certificate.frame", m.RoundCertificate(2, tuple(said)))
    return evidence


@tampered("confirmation-unsigned", round=2, silo="s2")
def the_confirmation_that_was_lacking() -> Evidence:
    """The aggregator makes the third of three confirmations of round 2 itself."""
    evidence = honest()
    said = list(frame(evidence, 2, "certificate.frame").confirmations)
    said[2] = signed(HUB, said[2])
    put(evidence, 2, "certificate.frame", m.RoundCertificate(2, tuple(said[:3])))
    return evidence


@tampered("round-replayed", round=2)
def a_certificate_of_another_round() -> Evidence:
    """The aggregator shows round 1's certificate for round 2."""
    evidence = honest()
    put(evidence, 2, "certificate.frame", frame(evidence, 1, "certificate.frame"))
    return evidence


@tampered("round-replayed", round=2)
def a_certificate_of_another_charter() -> Evidence:
    """The aggregator shows the certificate of round 2 of a run before this one."""
    evidence, before = honest(), honest(spares=2)
    put(evidence, 2, "certificate.frame", frame(before, 2, "certificate.frame"))
    return evidence


def moved(state: GridState) -> GridState:
    """A state with something of one's own in it."""
    values = state.values.copy()
    values[5] += 1 << 20
    return GridState(state.names, state.shapes, values, state.fraction_bits)


@tampered("state-malformed")
def a_run_that_began_otherwise() -> Evidence:
    """The aggregator shows an initial state that isn't the charter's."""
    evidence = honest()
    evidence.files["initial.state"] = moved(evidence.world.initial).to_bytes()
    return evidence


@tampered("state-malformed")
def an_initial_state_cut_short() -> Evidence:
    """The aggregator hands out half of the initial state."""
    evidence = honest()
    evidence.files["initial.state"] = evidence.files["initial.state"][:100]
    return evidence


@tampered("state-differs", round=2)
def a_state_with_something_added() -> Evidence:
    """In round 2, the silos confirm a state that has more in it than the sum."""
    run = Run(found())
    everybody = run.world.names
    run.released()
    run.charge(everybody)
    run.commit(everybody)
    attempt = run.attempt(everybody)
    attempt.mask(everybody)
    attempt.reveal(everybody)
    attempt.publish(everybody, agreed=everybody)
    run.confirm(everybody, moved(run.applied()))
    run.close(everybody)
    return run.end()


@tampered("state-differs", round=2)
def a_skipped_round_that_changed_the_state() -> Evidence:
    """In round 2, which brought no sum, the silos confirm another state than before."""
    run = Run(found())
    run.released()
    run.charge(run.world.names)
    run.confirm(run.world.names, moved(run.state), b"")
    run.close(run.world.names)
    return run.end()


@tampered("adapter-differs", round=2)
def an_adapter_with_something_added() -> Evidence:
    """The adapter that the aggregator hands out after round 2 isn't the certified state."""
    evidence = honest()
    adapters = json.loads(evidence.files["adapters.json"])
    adapters["by_round"]["2"] = "0a" * 32
    data = json.dumps(adapters, indent=2, sort_keys=True).encode() + b"\n"
    evidence.files["adapters.json"] = data
    return evidence
