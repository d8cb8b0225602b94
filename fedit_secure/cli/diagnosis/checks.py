"""What a check is, and how a list of them is gone through.

A check looks at one thing and says what it found; what it raises is its failure, with the
exit status of the error. It changes nothing. What it has read lies in the `Case` for those
that need it; where it failed or was skipped, they are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fedit_secure.config import AggregatorConfig, SiloConfig
from fedit_secure.errors import ConfigError, FeditError
from fedit_secure.federation.admission import Account
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.identity import Identity
from fedit_secure.federation.policy import Policy

Result = Literal["PASS", "WARN", "FAIL", "SKIP"]
_OUR_BUG = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check came to; `fix` is one sentence, None where nothing is to be done.

    `status` is the exit status of a failure, else 0.
    """

    check: str
    result: Result
    found: str
    fix: str | None = None
    status: int = 0


@dataclass(frozen=True, slots=True)
class Warn:
    """It works, and something is to be minded. `fix` where it isn't the check's own."""

    found: str
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class Skip:
    """There is nothing to look at yet. `fix` where something is to be done about it."""

    found: str
    fix: str | None = None


@dataclass(slots=True)
class Case:
    """The configuration that is looked at, and what checks have read so far.

    A field without a value is unset until the check that reads it has passed.
    """

    path: Path
    role: Literal["silo", "aggregator"]
    offline: bool = False
    config: SiloConfig | AggregatorConfig = field(init=False)
    silo: SiloConfig = field(init=False)
    hub: AggregatorConfig = field(init=False)
    identity: Identity = field(init=False)
    policy: Policy = field(init=False)
    charter: Charter | None = None
    account: Account = field(init=False)
    model_folder: Path = field(init=False)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at, its fix, and the names of the checks that it builds on."""

    name: str
    look: Callable[[Case], str | Warn | Skip]
    fix: str
    needs: tuple[str, ...] = ()
    over_network: bool = False
    reads_model: bool = False


def go_through(
    checks: Sequence[Check], case: Case, *, quick: bool
) -> Iterator[Finding]:
    """Every check's finding, in order; none keeps another from being looked at.

    Network checks are skipped for an offline `case`, those that read the base model with
    `quick`.
    """
    usable: set[str] = set()
    for check in checks:
        finding = _skipped(check, case, quick, usable) or _looked(check, case)
        if finding.result in ("PASS", "WARN"):
            usable.add(check.name)
        yield finding


def _skipped(check: Check, case: Case, quick: bool, usable: set[str]) -> Finding | None:
    if check.over_network and case.offline:
        return Finding(check.name, "SKIP", "not looked at (--offline)")
    if check.reads_model and quick:
        return Finding(check.name, "SKIP", "not looked at (--quick)")
    lacking = [name for name in check.needs if name not in usable]
    if lacking:
        needs = " and ".join(lacking)
        return Finding(check.name, "SKIP", f"it needs {needs}, which didn't pass")
    return None


def _looked(check: Check, case: Case) -> Finding:
    try:
        said = check.look(case)
    except FeditError as wrong:
        return Finding(check.name, "FAIL", str(wrong), check.fix, wrong.exit_status)
    except ModuleNotFoundError as wrong:
        found, fix = f"the package {wrong.name} isn't installed", _INSTALL
        return Finding(check.name, "FAIL", found, fix, ConfigError.exit_status)
    except Exception as wrong:  # noqa: BLE001 - the other checks are still worth a look
        found = f"unexpected {type(wrong).__name__}: {wrong}".splitlines()[0]
        return Finding(check.name, "FAIL", found, _REPORT, _OUR_BUG)
    match said:
        case Warn(found, fix):
            return Finding(check.name, "WARN", found, fix or check.fix)
        case Skip(found, fix):
            return Finding(check.name, "SKIP", found, fix)
    return Finding(check.name, "PASS", said)


def exit_status(findings: Sequence[Finding]) -> int:
    """That of the first failure, for later ones often follow from it; 0 without one."""
    return next((f.status for f in findings if f.result == "FAIL"), 0)


_INSTALL = "Run pip install 'fedit-secure[silo]' in the environment that fedit is in."
_REPORT = "This is a bug of fedit: please report it."
