"""`fedit audit`: what a federation did with its privacy budgets, checked from outside."""

from __future__ import annotations

import typer

from fedit_secure.cli.audit_export import export

app = typer.Typer(
    help="What a federation did, checked from outside.", no_args_is_help=True
)
app.command("export")(export)
