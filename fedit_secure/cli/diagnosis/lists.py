"""What is looked at for each role, in this order."""

from __future__ import annotations

from fedit_secure.cli.diagnosis import (
    books,
    machine,
    network,
    own_addresses,
    papers,
    run_state,
)
from fedit_secure.cli.diagnosis.checks import Check
from fedit_secure.cli.diagnosis.model import Trial, model_checks


def silo_checks(trial: Trial) -> tuple[Check, ...]:
    """A silo's. `trial` is theirs to start, and the caller's to close."""
    return (
        machine.PYTHON,
        machine.SILO_PACKAGES,
        papers.SILO_CONFIGURATION,
        papers.IDENTITY,
        papers.CHARTER,
        papers.CERTIFICATES,
        machine.PERMISSIONS,
        machine.CLOCK,
        machine.DISK,
        machine.PROCESSES,
        own_addresses.ENDPOINT,
        papers.POLICY,
        papers.APPROVAL,
        books.LEDGER,
        books.OWN_B,
        books.EPSILON,
        books.DATA,
        books.ADMISSION,
        network.ADDRESS,
        network.AGGREGATOR,
        network.ACCEPTED,
        *model_checks(trial),
    )


AGGREGATOR: tuple[Check, ...] = (
    machine.PYTHON,
    machine.HUB_PACKAGES,
    papers.HUB_CONFIGURATION,
    papers.IDENTITY,
    papers.CHARTER,
    papers.CERTIFICATES,
    machine.PERMISSIONS,
    machine.CLOCK,
    machine.DISK,
    papers.APPROVALS,
    papers.INITIAL_STATE,
    run_state.RUN,
    own_addresses.LISTEN,
)
