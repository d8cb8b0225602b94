"""The runs in a daemon's state folder, and the order that ends one."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedit_secure.cli.standing import identity_of, ledger_of, population_of
from fedit_secure.config import (
    AggregatorConfig,
    SiloConfig,
    load_aggregator_config,
    load_silo_config,
    role_of,
)
from fedit_secure.errors import ConfigError
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.cohort import Cohorts
from fedit_secure.privacy.ledger import Aborted, Ledger, Released
from fedit_secure.storage.progress import Progress
from fedit_secure.storage.stop_order import StopOrder, stop_path
from fedit_secure.watch.snapshot import Snapshot
from fedit_secure.watch.status_file import is_alive, read_status

_LONGEST_REASON = 400


def loaded(path: Path) -> SiloConfig | AggregatorConfig:
    """The configuration of whichever role it is. Raises ConfigError."""
    if role_of(path) == "silo":
        return load_silo_config(path)
    return load_aggregator_config(path)


def state_of(path: Path) -> Path:
    """The state folder that a configuration names. Raises ConfigError."""
    return loaded(path).state


def runs_table(path: Path) -> list[dict[str, Any]]:
    """One row a run, in order of time as far as that is known; the last is the newest.

    `certified` of `rounds` are closed: at a silo, those of which its ledger knows, and of
    `epoch` and `rounds` only what its present charter says. `state` is what the daemon
    says, "stopped" by the operator's order, or "not running".
    """
    config = loaded(path)
    status = read_status(config.state)
    if isinstance(config, AggregatorConfig):
        return _of_aggregator(config, status)
    return _of_silo(config, status)


def order_stop(path: Path, reason: str, *, at_once: bool) -> dict[str, Any]:
    """Order the end of the present charter's run.

    Raises ConfigError for a silo's configuration, a missing reason, or a run that has
    ended, StorageError if the order can't be written.
    """
    config, charter = _stoppable(path)
    reason = " ".join(reason.split())
    if not reason or len(reason) > _LONGEST_REASON or not reason.isprintable():
        raise ConfigError(
            'the silos are told why: --reason "..." of at most '
            f"{_LONGEST_REASON} characters"
        )
    digest = charter.digest().hex()
    progress = Progress.load(config.state / digest[:16]) or Progress()
    if progress.certified == charter.rounds:
        raise ConfigError(f"the run {charter.run!r} has ended already")
    order = StopOrder(reason, at_once, datetime.now(UTC).date().isoformat())
    order.save(stop_path(config.state, digest))
    alive = _is_of(read_status(config.state), digest)
    when = "at once" if at_once else f"after round {progress.round}"
    return {
        "run": charter.run,
        "charter": digest,
        "stops": when if alive else "it isn't running, and won't go on",
        "reason": reason,
    }


def withdraw_stop(path: Path) -> dict[str, Any]:
    """Take the order back. Raises ConfigError if there is none, or as `order_stop`."""
    config, charter = _stoppable(path)
    digest = charter.digest().hex()
    try:
        stop_path(config.state, digest).unlink()
    except FileNotFoundError:
        raise ConfigError(f"the run {charter.run!r} isn't stopped") from None
    return {"run": charter.run, "charter": digest, "stops": None}


def _stoppable(path: Path) -> tuple[AggregatorConfig, Charter]:
    config = loaded(path)
    if not isinstance(config, AggregatorConfig):
        raise ConfigError(
            f"{path} is a silo's: only the aggregator's operator ends a run, and a silo "
            "leaves it by SIGTERM"
        )
    return config, Charter.load(config.charter)


def _of_aggregator(
    config: AggregatorConfig, status: Snapshot | None
) -> list[dict[str, Any]]:
    found = []
    for kept in sorted(
        config.state.glob("*/charter.json"), key=lambda path: path.stat().st_mtime
    ):
        charter = Charter.load(kept)
        progress = Progress.load(kept.parent)
        certified = progress.certified if progress else 0
        digest = charter.digest().hex()
        if _is_of(status, digest):
            state = "running"
        elif stop_path(config.state, digest).exists():
            state = "stopped"
        else:
            state = "ended" if certified == charter.rounds else "not running"
        found.append(
            {
                "charter": digest[:16],
                "federation": charter.federation,
                "run": charter.run,
                "epoch": charter.epoch,
                "certified": certified,
                "rounds": charter.rounds,
                "state": state,
            }
        )
    return found


def _of_silo(config: SiloConfig, status: Snapshot | None) -> list[dict[str, Any]]:
    ledger = ledger_of(config, population_of(identity_of(config)))
    now = Charter.load(config.charter) if config.charter.exists() else None
    runs: dict[str, str] = {}
    if ledger is not None:
        runs = {intent.charter: intent.run for intent in ledger.intents()}
    if now is not None:
        runs.setdefault(now.digest().hex(), now.run)
    last = 0 if now is None else _last_round(now, config.name)
    return [
        _silo_row(digest, run, ledger, now, last, status)
        for digest, run in runs.items()
    ]


def _last_round(charter: Charter, silo: str) -> int:
    """The last that is drawn for the silo: its ledger knows of no later one."""
    cohorts, names = Cohorts(charter), [row.name for row in charter.roster]
    rounds = range(charter.rounds, 0, -1) if silo in names else ()
    return next((n for n in rounds if cohorts.takes(n, names.index(silo))), 0)


def _silo_row(
    digest: str,
    run: str,
    ledger: Ledger | None,
    now: Charter | None,
    last: int,
    status: Snapshot | None,
) -> dict[str, Any]:
    mine = now if now is not None and now.digest().hex() == digest else None
    closed = {
        event.round
        for event in (() if ledger is None else ledger.events)
        if isinstance(event, Released | Aborted) and event.charter == digest
    }
    if _is_of(status, digest):
        state = "running"
    else:
        over = mine is not None and last in closed
        state = "ended" if over else "not running"
    return {
        "charter": digest[:16],
        "federation": mine and mine.federation,
        "run": run,
        "epoch": mine and mine.epoch,
        "certified": len(closed),
        "rounds": mine and mine.rounds,
        "state": state,
    }


def _is_of(status: Snapshot | None, charter: str) -> bool:
    """Whether a living daemon is at the run of this charter."""
    if status is None or status.run.charter != charter:
        return False
    return is_alive(status, time.time())
