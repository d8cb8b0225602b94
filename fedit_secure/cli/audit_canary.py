"""`fedit audit canary`: whether this machine's build does what its charges say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedit_secure.cli.output import FormatOption, OutputFormat, note, show
from fedit_secure.errors import AuditFailed

if TYPE_CHECKING:
    from fedit_secure.audit.canary.build import Audited
    from fedit_secure.audit.canary.detections import Detection
    from fedit_secure.privacy.ledger import AuditRun
    from fedit_secure.tuning.records import Record

_PROVES = "a detector that flags shows a fault; that none does, shows nothing"


def canary(
    config: Annotated[
        Path | None,
        typer.Argument(help="A silo.yaml: enter the audit in its ledger, too."),
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(help="Public records to tune on; default: synthetic ones."),
    ] = None,
    canaries: Annotated[
        int, typer.Option(min=200, max=3800, help="Of the one-run audit.")
    ] = 2000,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**32 - 1,
            help="Of the canaries and the synthetic records, not of the noise.",
        ),
    ] = None,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Try the tuning code that is installed here on canaries, and look for faults.

    It runs that code as it is, on public or synthetic records, and states a lower bound
    on the epsilon of one step. It can show that a build is broken, never that it isn't.
    With a silo.yaml, whose daemon must be stopped, the run is entered in the ledger; it
    costs nothing. Ends with status 9 if a detector flags.
    """
    import asyncio
    import secrets

    from fedit_secure.silo.tuner import tune_in_child

    with ExitStack() as held:
        public = None if records is None else _load(records)
        enter = None if config is None else _ledger(config, public, held)
        note("trying this build on canaries; it takes about half a minute")
        from fedit_secure.audit.canary.build import (
            audit_build,
            audit_event,
            synthetic_records,
        )
        from fedit_secure.demo.base_model_files import base_model_path

        drawn = secrets.randbelow(2**32) if seed is None else seed
        used = synthetic_records(drawn) if public is None else public
        options = {"canaries": canaries, "seed": drawn}
        audit = audit_build(tune_in_child, base_model_path(), used, **options)
        found = asyncio.run(audit)
        kind = "synthetic" if public is None else "public"
        facts = _facts(found, kind, drawn)
        if enter is not None:
            facts["ledger_entry"] = enter(audit_event(found.plan, kind, used))
    show(facts, format, {"detectors": [_row(d, format) for d in found.detections]})
    if found.flagged:
        raise AuditFailed(
            f"the canary audit flags this build: {', '.join(found.flagged)}"
        )


def _load(path: Path) -> list[Record]:
    from fedit_secure.tuning.job import DataSource
    from fedit_secure.tuning.records import load_records

    return load_records(DataSource(path=str(path)))


def _ledger(
    path: Path, records: Sequence[Record] | None, held: ExitStack
) -> Callable[[AuditRun], int]:
    """Enters the event in the silo's ledger, whose lock is held from now on.

    What can refuse it does so here, before half a minute's work.
    """
    from fedit_secure.cli.standing import identity_of, population_of
    from fedit_secure.config import load_silo_config
    from fedit_secure.silo.audit_entry import enter, open_ledger, require_others_records
    from fedit_secure.storage.journal import Journal
    from fedit_secure.tuning.job import DataSource
    from fedit_secure.tuning.records import load_records

    config = load_silo_config(path)
    population = population_of(identity_of(config))
    journal = held.enter_context(Journal.open(config.state / "journal.sqlite"))
    open_ledger(journal, population)
    if records is not None:
        own = load_records(DataSource.model_validate(config.data.model_dump()))
        require_others_records(records, own)
    return lambda event: enter(journal, population, event).sequence


def _facts(found: Audited, kind: str, seed: int) -> dict[str, Any]:
    from fedit_secure.audit.canary.one_run import CONFIDENCE

    guessed = found.detections[0].figures
    return {
        "epsilon_claimed": found.plan.epsilons().published,
        "epsilon_lower_bound": guessed["epsilon_lower_bound"],
        "gaussian_epsilon_lower_bound": guessed["gaussian_epsilon_lower_bound"],
        "confidence": CONFIDENCE,
        "delta": found.plan.delta,
        "sigma": found.plan.noise_multiplier,
        "records": kind,
        "seed": seed,
        "flagged": list(found.flagged),
        "what_it_proves": _PROVES,
    }


def _row(found: Detection, format: OutputFormat) -> dict[str, Any]:
    from fedit_secure.audit.canary.detections import DETECTORS

    row: dict[str, Any] = {"detector": found.detector, "verdict": found.verdict}
    if format is OutputFormat.JSON:
        looks = {"looks_for": DETECTORS[found.detector]}
        return row | looks | {"figures": found.figures}
    figures = (
        f"{name.replace('_', ' ')} {_short(value)}"
        for name, value in found.figures.items()
    )
    return row | {"looks_for": DETECTORS[found.detector], "seen": ", ".join(figures)}


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
