"""`fedit charter`: what all parties agree on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedit_secure.cli.output import FormatOption, OutputFormat, note, show

app = typer.Typer(
    help="What all parties agree on: draft, show, approve, verify.",
    no_args_is_help=True,
)

CharterArgument = Annotated[Path, typer.Argument(help="The charter file.")]


@app.command("draft")
def draft(
    plan: Annotated[Path, typer.Argument(help="The coordinator's plan.yaml.")],
    cards: Annotated[
        list[Path], typer.Argument(help="Every party's card; a folder means its cards.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write the charter.")
    ] = Path("charter.json"),
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Make a charter from a plan and all cards.

    Beside it lies the initial state that it names. Nothing is overwritten.
    """
    from fedit_secure.cli.drafted import draft_files

    show(draft_files(plan, cards, output), format)
    note(
        "send the charter to every operator, who runs fedit charter approve; the state "
        "stays with the aggregator, and silos fetch it there"
    )


@app.command("show")
def show_charter(
    charter: CharterArgument = Path("charter.json"),
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Show a charter, its cost and its fifteen words.

    Beside the claim it says what the claim doesn't cover, for the silo that it costs
    most, within a minute at most.
    """
    from fedit_secure.cli.beside import BESIDE, beside_the_claim
    from fedit_secure.cli.charter_facts import (
        charter_facts,
        costliest_silo,
        roster_table,
    )
    from fedit_secure.federation.charter import Charter

    loaded = Charter.load(charter)
    roster = roster_table(loaded)
    beside = beside_the_claim(loaded, costliest_silo(roster))
    show(charter_facts(loaded), format, {"roster": roster, BESIDE: beside})


@app.command("approve")
def approve(
    config: Annotated[Path, typer.Argument(help="The silo's silo.yaml.")] = Path(
        "silo.yaml"
    ),
    yes: Annotated[
        bool, typer.Option("--yes", help="Don't ask; the words were compared.")
    ] = False,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Check the charter for this silo, and sign it.

    It must hold this silo's own card and fit its data, policy and budget.
    """
    from fedit_secure.cli.approving import check_charter, sign_charter
    from fedit_secure.cli.beside import BESIDE, beside_the_claim
    from fedit_secure.config import load_silo_config

    loaded = load_silo_config(config)
    checked = check_charter(loaded)
    beside = beside_the_claim(checked.charter, loaded.name, checked.person_sizes)
    show(checked.facts, format, {"caps": checked.caps, BESIDE: beside})
    if not yes:
        note(
            "compare the fifteen words with the other operators, over a channel that the"
        )
        note("coordinator doesn't control")
        typer.confirm("Are they the same, and do you approve?", abort=True, err=True)
    path = sign_charter(loaded, checked)
    note(f"approved; send {path} to the aggregator")


@app.command("verify")
def verify(
    charter: CharterArgument,
    approvals: Annotated[
        list[Path], typer.Argument(help="Approvals; a folder means its approvals.")
    ],
    predecessor: Annotated[
        Path | None, typer.Option(help="The charter of the epoch before.")
    ] = None,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Check that every silo has approved this charter."""
    from datetime import UTC, datetime

    from fedit_secure.federation.approval import load_approvals, verify_approvals
    from fedit_secure.federation.charter import Charter

    loaded = Charter.load(charter)
    if predecessor is not None:
        loaded.check_successor(Charter.load(predecessor))
    loaded.check_date(datetime.now(UTC).date())
    verify_approvals(loaded, load_approvals(approvals))
    facts = {
        "federation": loaded.federation,
        "epoch": loaded.epoch,
        "approved_by": [row.name for row in loaded.roster],
        "digest": loaded.digest().hex(),
        "words": " ".join(loaded.words()),
    }
    show(facts, format)
