"""The count of inputs that each parser was given in a long run."""

from __future__ import annotations

from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    rows = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        for key, value in getattr(report, "user_properties", ())
        if key == "fuzz" and report.when == "call"
    ]
    if not rows:
        return
    line = "{:22}{:>10}{:>10}{:>10}".format
    terminalreporter.write_line(line("parser", "tried", "accepted", "refused"))
    for name, taken, refused, _ in rows:
        terminalreporter.write_line(line(name, taken + refused, taken, refused))
    taken, refused = (sum(row[i] for row in rows) for i in (1, 2))
    terminalreporter.write_line(line("in all", taken + refused, taken, refused))
    terminalreporter.write_line(f"FUZZ_SEED={rows[0][3]} repeats the same inputs")
