"""`fedit budget`: what this silo's records have cost so far, what a run would add, and what
they may ever cost.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedit_secure.cli.budget_inherit import inherit
from fedit_secure.cli.budget_restore import restore
from fedit_secure.cli.output import (
    FormatOption,
    OutputFormat,
    TableFormat,
    TableFormatOption,
    note,
    show,
)

app = typer.Typer(
    help="What this silo's records have cost so far.", no_args_is_help=True
)
app.command("inherit")(inherit)
app.command("restore")(restore)

ConfigArgument = Annotated[Path, typer.Argument(help="The silo's silo.yaml.")]


@app.command("show")
def show_budget(
    config: ConfigArgument = Path("silo.yaml"),
    plan: Annotated[
        Path | None, typer.Option(help="What would this charter, or plan.yaml, cost?")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw it too: a file .svg or .png.")
    ] = None,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Show the privacy budget spent and left, by the ledger, against every cap.

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
    from fedit_secure.cli.caps_table import caps_table
    from fedit_secure.cli.standing import (
        account_of,
        budget_facts,
        charges_table,
        identity_of,
        population_of,
    )
    from fedit_secure.config import load_silo_config

    if picture is not None:
        require_drawable(picture)
    loaded = load_silo_config(config)
    if plan is None:
        account = account_of(loaded, population_of(identity_of(loaded)))
        tables = {
            "caps": caps_table(account.caps()),
            "charges": charges_table(account.ledger),
        }
        show(budget_facts(account), format, tables)
        if picture is not None:
            draw_budget(spent_budget(account), picture)
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
        "caps": caps_table(run.account.caps(run.asked)),
        "accountants": accountants_table(run, after),
        BESIDE: beside_the_run(loaded, plan, run),
    }
    show(plan_facts(run, after), format, tables)
    if picture is not None:
        draw_budget(planned_budget(run, after), picture)
    run.require_fit()


@app.command("set")
def set_cap(
    epsilon: Annotated[float, typer.Argument(help="What the records may ever cost.")],
    config: ConfigArgument = Path("silo.yaml"),
    reason: Annotated[
        str,
        typer.Option(help="Why. It is in the ledger, which the aggregator keeps too."),
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    format: FormatOption = OutputFormat.TABLE,
) -> None:
    """Change the lifetime cap in the ledger, under this silo's key.

    The silo's daemon must not be running. policy.yaml's epsilon may still be lower, and
    then it holds. The reason says nothing about the records: others read it.
    """
    from fedit_secure.cli.capping import proposed_cap
    from fedit_secure.config import load_silo_config
    from fedit_secure.errors import ConfigError

    if not reason.strip():
        raise ConfigError('a change of the cap needs its reason: --reason "..."')
    if not yes and not sys.stdin.isatty():
        raise ConfigError("there is no terminal to ask at; --yes changes it unasked")
    with proposed_cap(load_silo_config(config), epsilon, reason) as change:
        for sentence in change.words():
            note(sentence)
        if not yes:
            typer.confirm("Change the cap?", abort=True, err=True)
        show(change.commit(), format)


@app.command("history")
def show_history(
    config: ConfigArgument = Path("silo.yaml"),
    format: TableFormatOption = TableFormat.TABLE,
) -> None:
    """Show every charge, and every change of the cap or the records, in order."""
    from fedit_secure.cli.history import history_table
    from fedit_secure.cli.standing import account_of, identity_of, population_of
    from fedit_secure.config import load_silo_config

    loaded = load_silo_config(config)
    account = account_of(loaded, population_of(identity_of(loaded)))
    facts = {"population": account.population, "delta": account.delta()}
    show(facts, format, {"history": history_table(account)})
