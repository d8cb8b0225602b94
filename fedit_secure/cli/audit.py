"""`fedit audit`: what a federation did with its privacy budgets, checked from outside."""

from __future__ import annotations

import typer

from fedit_secure.cli import (
    audit_canary,
    audit_export,
    audit_leakage,
    audit_report,
    audit_verify,
)

app = typer.Typer(
    help="What a federation did, checked from outside.", no_args_is_help=True
)
app.command("export")(audit_export.export)
app.command("verify")(audit_verify.verify)
app.command("report")(audit_report.report)
app.command("canary")(audit_canary.canary)
app.command("leakage")(audit_leakage.leakage)
