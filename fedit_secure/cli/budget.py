"""`fedit budget`: what this silo's records have cost so far, and what a run would add."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedit_secure.cli.budget_inherit import inherit
from fedit_secure.cli.budget_restore import restore
from fedit_secure.cli.output import FormatOption, OutputFormat, show

app = typer.Typer(
    help="What this silo's records have cost so far.", no_args_is_help=True
)
app.command("inherit")(inherit)
app.command("restore")(restore)


@app.command("show")
def show_budget(
    config: Annotated[Path, typer.Argument(help="The silo's silo.yaml.")] = Path(
        "silo.yaml"
    ),
    plan: Annotated[
        Path | None, typer.Option(help="What would this charter, or plan.yaml, cost?")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw it too: a file .svg or .png.")
    ] = None,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Show the privacy budget spent and left, by the ledger.

    With --plan: this run would cost, you have, afterwards. A charter's costs are exact.
    For a plan.yaml the noise is calibrated as drafting would, for this silo's own data.
    Ends with status 7 if the run doesn't fit.
    """
    from fedit_secure.cli.beside import BESIDE
    from fedit_secure.cli.budget_picture import (
        draw_budget,
        planned_budget,
        require_drawable,
        spent_budget,
    )
    from fedit_secure.cli.standing import budget_facts, charges_table
    from fedit_secure.config import load_silo_config

    if picture is not None:
        require_drawable(picture)
    loaded = load_silo_config(config)
    if plan is None:
        show(budget_facts(loaded), format, {"charges": charges_table(loaded)})
        if picture is not None:
            draw_budget(spent_budget(loaded), picture)
        return
    from fedit_secure.cli.planned import (
        accountants_table,
        beside_the_run,
        plan_facts,
        planned_run,
    )

    run = planned_run(loaded, plan)
    after = run.afterwards()
    tables = {
        "accountants": accountants_table(run, after),
        BESIDE: beside_the_run(loaded, plan, run),
    }
    show(plan_facts(run, after), format, tables)
    if picture is not None:
        draw_budget(planned_budget(run, after), picture)
    run.require_fit(after)
