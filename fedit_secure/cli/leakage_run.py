"""From a silo's files to its leakage tests, and from their results to its report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedit_secure import __version__
from fedit_secure.audit.leakage.findings import QUESTIONS, findings
from fedit_secure.audit.leakage.membership import TARGETS, Attack, Membership
from fedit_secure.audit.leakage.model_under_test import ModelUnderTest
from fedit_secure.audit.leakage.names import read_secrets
from fedit_secure.audit.leakage.sampled_units import Located
from fedit_secure.audit.leakage.trial import Leakage, Trial, leakage
from fedit_secure.cli.caps_table import figure
from fedit_secure.cli.certified_adapter import certified_adapter
from fedit_secure.cli.output import OutputFormat
from fedit_secure.cli.standing import account_of, identity_of
from fedit_secure.config import SiloConfig
from fedit_secure.errors import ConfigError, StorageError
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.durable import write_durably
from fedit_secure.silo.fingerprints import commitment
from fedit_secure.tuning.job import DataSource
from fedit_secure.tuning.records import located_records
from fedit_secure.tuning.saved_adapter import SavedAdapter, read_peft_adapter
from fedit_secure.tuning.units import require_persons

FOLDER = "leakage"
"""Of the reports, in the state folder."""
_LISTED = 10  # records on a terminal; the report has all of them


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that the tests need; reading it refuses what can't be used.

    `as_charged`: whether the records are those that the silo's ledger was charged for;
    None without a ledger.
    """

    config: SiloConfig
    charter: Charter
    adapter: SavedAdapter
    own: Sequence[Located]
    held_out: Sequence[Located]
    secrets: dict[str, int]
    as_charged: bool | None

    def run(self, trial: Trial) -> Leakage:
        """Load the model and try everything. Raises ConfigError."""
        charter = self.charter
        model = ModelUnderTest.load(
            self.config,
            charter.base_model.digest,
            self.adapter,
            charter.template.name,
            charter.max_tokens,
            template_digest=charter.template.digest,
        )
        plan = charter.plan_for(self.config.name)
        key = charter.digest()
        return leakage(model, self.own, self.held_out, self.secrets, plan, key, trial)


def prepared(
    config: SiloConfig, adapter: Path | None, holdout: Path | None, secrets: Path | None
) -> Prepared:
    """Read everything but the model.

    Raises ConfigError naming the file that can't be used, PolicyRefusal for a charter
    without this silo, StorageError for a damaged journal or state.
    """
    charter = Charter.load(config.charter)
    source = DataSource.model_validate(config.data.model_dump())
    require_persons(source.columns, charter.dp.unit)
    tested = (
        _certified(config, charter) if adapter is None else read_peft_adapter(adapter)
    )
    records = located_records(source)
    own = [located for located in records if not located[1].held_out]
    held_out = [located for located in records if located[1].held_out]
    if holdout is not None:
        if not holdout.exists():
            raise ConfigError(f"{holdout}: no such file of held-out records")
        update = {"path": str(holdout), "held_out": None}
        held_out = located_records(source.model_copy(update=update))
    return Prepared(
        config,
        charter,
        tested,
        own,
        held_out,
        {} if secrets is None else read_secrets(secrets),
        _as_charged(config, charter, records),
    )


def _certified(config: SiloConfig, charter: Charter) -> SavedAdapter:
    found = certified_adapter(config, charter)
    if found is None:
        raise ConfigError(
            f"{config.state} has no certified state of this charter yet: give --adapter"
        )
    return found


def _as_charged(
    config: SiloConfig, charter: Charter, records: Sequence[Located]
) -> bool | None:
    ledger = account_of(config, charter.row(config.name).population).ledger
    if ledger is None:
        return None
    now = commitment((record for _, record in records), identity_of(config).signing)
    return now.hex() == ledger.fingerprints


def leakage_facts(ready: Prepared, result: Leakage) -> dict[str, Any]:
    """What was tested, on what, and against which claim."""
    plan = ready.charter.plan_for(ready.config.name)
    others = result.held_out
    return {
        "silo": ready.config.name,
        "adapter": ready.adapter.name,
        "adapter_digest": ready.adapter.digest,
        "charter": ready.charter.digest().hex()[:16],
        "unit": result.unit,
        "epsilon": figure(plan.epsilons().published),
        "delta": plan.delta,
        "records": len(result.members.records),
        "records_in_all": len(ready.own),
        "held_out": None if others is None else len(others.records),
        "held_out_in_all": len(ready.held_out) or None,
        "held_out_but_in_the_silo": None if others is None else others.left_out,
        "records_as_charged": ready.as_charged,
        "records_to_look_at": len(result.exposed),
    }


def leakage_tables(
    result: Leakage, format: OutputFormat, *, show_text: bool
) -> dict[str, Any]:
    """The findings, in words, and the figures behind them.

    `show_text` adds the passages that come back, which are the silo's records.
    """
    found = findings(result)
    if format is OutputFormat.JSON:
        tables: dict[str, Any] = {
            "findings": [asdict(finding) for finding in found],
            "membership": _membership_json(result.membership),
            "extraction": asdict(result.extraction),
        }
    else:
        tables = {
            QUESTIONS[finding.test]: [
                {finding.test: part, finding.verdict: getattr(finding, part)}
                for part in ("tried", "found", "means", "do")
            ]
            for finding in found
        }
        tables["scores"] = _scores_table(result.membership)
    tables["exposed_records"] = [
        {
            "record": row.where,
            "comes_back": row.comes_back,
            "passage_tokens": row.tokens,
            "nats_gained": row.gain,
            "times_in_the_data": row.times,
        }
        | ({"passage": row.text} if show_text else {})
        for row in result.exposed[: None if format is OutputFormat.JSON else _LISTED]
    ]
    tables["strings"] = [
        {"line": asked.line, "record": asked.where, "rank": asked.rank}
        for asked in (result.names.asked if result.names is not None else ())
    ]
    return tables


def _membership_json(told: Membership | None) -> dict[str, Any] | None:
    if told is None:
        return None
    # JSON has no infinity.
    return asdict(told) | {"epsilon": figure(told.epsilon)}


def _scores_table(told: Membership | None) -> list[dict[str, Any]]:
    if told is None:
        return []
    rows: list[dict[str, Any]] = []
    for attack in (*told.attacks, told.base, told.words):
        control = attack in (told.base, told.words)
        rows.append(
            {
                "score": f"control: {attack.name}" if control else attack.name,
                "right_pairs": f"{100 * attack.area:.1f} %",
                "between": f"{100 * attack.low:.1f} and {100 * attack.high:.1f} %",
            }
            | {
                f"found_at_{100 * target:g}_%_false_alarms": (
                    None if control else _rate(attack, target)
                )
                for target in TARGETS
            }
        )
    return rows


def _rate(attack: Attack, target: float) -> str:
    rate = next((r for r in attack.rates if r.target == target), None)
    if rate is None:
        return f"needs {round(1 / target)} held out"
    return (
        f"{100 * rate.share:.1f} % ({100 * rate.low:.1f} to {100 * rate.high:.1f}); "
        f"epsilon allows {100 * rate.allowed:.2f} %"
    )


def write_report(config: SiloConfig, ready: Prepared, result: Leakage) -> Path:
    """Write the report, readable by its owner alone; returns where it is.

    One per adapter: a new test of it replaces the last. It holds no record's text.
    Raises StorageError if it can't be written.
    """
    folder = config.state / FOLDER
    try:
        config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} can't be made: {error.strerror}") from error
    path = folder / f"{ready.adapter.digest[:16]}.json"
    report = {
        "software": f"fedit-secure {__version__}",
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "trial": asdict(result.trial),
        **leakage_facts(ready, result),
        **leakage_tables(result, OutputFormat.JSON, show_text=False),
    }
    text = json.dumps(report, indent=2, default=str) + "\n"
    write_durably(path, text.encode(), mode=0o600)
    return path
