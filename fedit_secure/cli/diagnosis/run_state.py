"""How far the aggregator's run has come, as its folder says."""

from __future__ import annotations

from fedit_secure.cli.diagnosis.checks import Case, Check
from fedit_secure.storage.progress import Progress


def _run(case: Case) -> str:
    charter = case.charter
    assert charter is not None
    folder = case.hub.state / charter.digest().hex()[:16]
    progress = Progress.load(folder)
    if progress is None:
        return "not begun yet"
    return f"{progress.certified} of {charter.rounds} rounds are certified"


RUN = Check(
    "run",
    _run,
    "Put the newest copy of the run folder back: the silos hold what it lacks.",
    needs=("charter",),
)
