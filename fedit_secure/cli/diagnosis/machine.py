"""Is this machine fit: Python and packages, permissions, disk, clock."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from fedit_secure.cli.diagnosis.checks import Case, Check, Warn
from fedit_secure.errors import ConfigError, StorageError
from fedit_secure.federation.certificates import check_issuer
from fedit_secure.federation.charter import Charter
from fedit_secure.silo.jobs import round_bytes
from fedit_secure.wire.limits import Limits

_TESTED = (3, 11)
_MIB = 1 << 20
_FEW_MIB = 1024  # below which a disk is called nearly full


def _python(_: Case) -> str | Warn:
    version = sys.version_info
    said = f"Python {version.major}.{version.minor}.{version.micro}"
    if version[:2] < _TESTED:
        raise ConfigError(f"{said} is older than 3.11")
    if version[:2] != _TESTED:
        return Warn(f"{said}, and fedit is tested with 3.11")
    return said


def _packages(extra: str) -> str:
    wanted = [Requirement(text) for text in metadata.requires("fedit-secure") or ()]
    mine = [
        r
        for r in wanted
        if r.marker is None
        or r.marker.evaluate({"extra": ""})
        or (extra and r.marker.evaluate({"extra": extra}))
    ]
    wrong = [text for requirement in mine if (text := _misfit(requirement))]
    if wrong:
        raise ConfigError("; ".join(wrong))
    return f"{len(mine)} packages are there in versions that fit"


def _misfit(wanted: Requirement) -> str | None:
    try:
        version = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return f"{wanted.name} isn't installed"
    if wanted.specifier.contains(version, prereleases=True):
        return None
    return f"{wanted.name} is {version}, and should be {wanted.specifier}"


def _permissions(case: Case) -> str | Warn:
    """The key files' own are held by loading them; these are what lies around them."""
    config = case.config
    private = [config.identity, config.state]
    mine = [case.path]
    if case.role == "silo":
        mine.append(case.silo.policy)
        private.append(Path(case.silo.data.path))
    told = [
        f"others may read {path}"
        for path in private
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o007
    ]
    told += [
        f"others may write to {path}"
        for path in mine
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o022
    ]
    if told:
        return Warn("; ".join(told))
    return "nobody else can read keys, state and records, or write the configuration"


def _disk(case: Case) -> str | Warn:
    state = case.config.state
    folder = next(at for at in (state, *state.parents) if at.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(f"this account may not write to {folder}")
    free = shutil.disk_usage(folder).free
    needed = 0 if case.charter is None else _needed(case, case.charter)
    said = f"{free // _MIB:,} MiB free in {folder}"
    if needed:
        said += f", and a round writes {max(1, needed // _MIB):,} MiB"
    if free < needed:
        raise StorageError(said)
    if free < max(4 * needed, _FEW_MIB * _MIB):
        return Warn(said)
    return said


def _processes(case: Case) -> str | Warn:
    """Whether each has a CUDA device, the step `torch` of the trial says."""
    run, cores = case.silo.torchrun, os.cpu_count() or 1
    if run.ranks == 1:
        return "a job is one process"
    said = f"{run.processes} processes of a job"
    if run.hosts > 1:
        said += f" on each of {run.hosts} hosts"
    said += f", and {cores} cores here"
    return Warn(said) if run.processes > cores else said


def _needed(case: Case, charter: Charter) -> int:
    if case.role == "silo":
        return round_bytes(charter)
    payload = Limits.of(charter.secagg_params()).payload_bytes
    return 2 * len(charter.roster) * payload


def _clock(case: Case) -> str:
    now = datetime.now(UTC)
    made = check_issuer(case.identity.card.issuer_certificate).not_valid_before_utc
    said = f"{now:%Y-%m-%d %H:%M} UTC"
    if now < made:
        raise ConfigError(
            f"the clock says {said}, before this party's keys were made "
            f"({made:%Y-%m-%d %H:%M} UTC)"
        )
    return said


PYTHON = Check(
    "python", _python, "Install fedit with Python 3.11, the version it is tested with."
)
_INSTALL = (
    "Run pip install -c constraints.txt 'fedit-secure[silo]', for an aggregator without "
    "[silo]."
)
SILO_PACKAGES = Check("packages", lambda _: _packages("silo"), _INSTALL)
HUB_PACKAGES = Check("packages", lambda _: _packages(""), _INSTALL)
PERMISSIONS = Check(
    "permissions",
    _permissions,
    "Run chmod o-rwx on what is read by others, and chmod go-w on what they may write.",
    needs=("configuration",),
)
DISK = Check(
    "disk",
    _disk,
    "Make room on that disk, or put 'state' on another before the first run.",
    needs=("configuration",),
)
PROCESSES = Check(
    "processes",
    _processes,
    "Set torchrun.processes to the cores of this machine at most: more of them wait for "
    "each other.",
    needs=("configuration",),
)
CLOCK = Check(
    "clock", _clock, "Set the clock, and keep it set by NTP.", needs=("identity",)
)
