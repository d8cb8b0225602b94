"""What a run would cost this silo's records, beside what they have borne already."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedit_secure.cli.beside import beside_a_plan, beside_the_claim
from fedit_secure.cli.caps_table import figure
from fedit_secure.cli.standing import account_of, identity_of, population_of
from fedit_secure.config import PlanFile, SiloConfig, load_plan
from fedit_secure.errors import ConfigError, PolicyRefusal
from fedit_secure.federation.admission import Account, Asked
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.drafting import silo_noise, unit_of
from fedit_secure.federation.run_plan import DEFAULT_RECORDS_PER_PERSON
from fedit_secure.privacy.caps import PUBLISHED
from fedit_secure.privacy.ledger import Ledger
from fedit_secure.privacy.plan import DpPlan
from fedit_secure.tuning.job import DataSource
from fedit_secure.tuning.records import load_records
from fedit_secure.tuning.units import count_units


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run that may be asked of this silo, and where its records stand."""

    asked: Asked
    account: Account

    @property
    def plan(self) -> DpPlan:
        """What the run does, this silo's row of it."""
        return self.asked.plan

    @property
    def ledger(self) -> Ledger | None:
        """None before the population's first charter."""
        return self.account.ledger

    @property
    def delta(self) -> float | None:
        """The ledger's, None only without DP."""
        return self.account.delta(self.asked)

    @property
    def left(self) -> int:
        """The charges that the run has still to make."""
        return self.asked.left(self.ledger)

    @property
    def filtered(self) -> bool:
        """Whether the Renyi filter decides: another charter was charged before."""
        charges = () if self.ledger is None else self.ledger.intents()
        return any(intent.charter != self.asked.charter for intent in charges)

    def afterwards(self) -> float:
        """Epsilon as the ledger counts it, once the whole run is charged.

        Raises PrivacyAccountingError out of the accountants' reach.
        """
        caps = self.account.caps(self.asked)
        return caps[0].after if caps and caps[0].after is not None else math.inf

    def require_fit(self) -> None:
        """Raises BudgetExhausted or PolicyRefusal where the silo would refuse the run."""
        if self.left or self.ledger is None:
            self.account.require_room(self.asked)

    def fits(self) -> bool:
        """Whether the silo would admit the run."""
        try:
            self.require_fit()
        except PolicyRefusal:
            return False
        return True


def planned_run(config: SiloConfig, path: Path) -> PlannedRun:
    """The run of a charter (.json), or of a coordinator's plan (.yaml, .yml).

    A plan's noise is calibrated as drafting would, for this silo's own data. Raises
    ConfigError, and PolicyRefusal for a charter without this silo.
    """
    identity = identity_of(config)
    if path.suffix == ".json":
        charter = Charter.load(path)
        plan, digest = charter.plan_for(config.name), charter.digest().hex()
        population = charter.row(config.name).population
    elif path.suffix in {".yaml", ".yml"}:
        plan, digest = _drafted(config, load_plan(path)), None
        population = population_of(identity)
    else:
        raise ConfigError(f"{path} is neither a charter (.json) nor a plan (.yaml)")
    return PlannedRun(Asked(plan, digest), account_of(config, population))


def plan_facts(run: PlannedRun, afterwards: float) -> dict[str, Any]:
    """This run would cost; you have; afterwards."""
    spent = 0.0 if run.ledger is None else run.ledger.spent().published
    limit = run.account.lifetime_limit
    return {
        "population": run.account.population,
        "unit": run.plan.unit,
        "rate": run.plan.sample_rate,
        "noise": run.plan.noise_multiplier,
        "charges_left": run.left,
        "delta": run.delta,
        "epsilon_cap": figure(limit),
        "run_costs_epsilon": figure(_alone(run)),
        "spent_epsilon": figure(spent),
        "left_epsilon": None if limit == math.inf else max(0.0, limit - spent),
        "after_the_run_epsilon": figure(afterwards),
        "counted_by": _counted_by(run),
        "fits": run.fits(),
    }


def accountants_table(run: PlannedRun, afterwards: float) -> list[dict[str, Any]]:
    """What each accountant says of the run, of what is spent, and of both together."""
    if run.delta is None:
        return []
    from dp_accounting import ComposedDpEvent

    from fedit_secure.privacy.accountant import spent_epsilons

    charged = ComposedDpEvent([]) if run.ledger is None else run.ledger.charged_event()
    rest = [run.plan.event_of(run.left)] if run.left else []
    events = (run.plan.run_event(), charged, ComposedDpEvent([charged, *rest]))
    found = [spent_epsilons(event, run.delta) for event in events]
    names = {
        "PLD": "pld",
        "PRV": "prv",
        "RDP, a bound": "rdp",
        "published": "published",
    }
    rows: list[dict[str, Any]] = [
        {
            "accountant": name,
            "this_run": figure(getattr(found[0], field)),
            "spent": figure(getattr(found[1], field)),
            "afterwards": figure(getattr(found[2], field)),
        }
        for name, field in names.items()
    ]
    if run.filtered:
        rows.append(
            {
                "accountant": _counted_by(run),
                "this_run": None,
                "spent": None,
                "afterwards": figure(afterwards),
            }
        )
    return rows


def beside_the_run(
    config: SiloConfig, path: Path, run: PlannedRun
) -> list[dict[str, Any]]:
    """What the run's epsilon doesn't say; a plan's other silo is taken for one like this."""
    if run.asked.charter is None:
        return beside_a_plan(run.plan, (run.plan,))
    return beside_the_claim(Charter.load(path), config.name)


def _alone(run: PlannedRun) -> float:
    from fedit_secure.privacy.accountant import spent_epsilons

    if run.delta is None:
        return math.inf
    return spent_epsilons(run.plan.run_event(), run.delta).published


def _counted_by(run: PlannedRun) -> str:
    return PUBLISHED if run.ledger is None else run.ledger.counted_by(run.asked.charter)


def _drafted(config: SiloConfig, plan: PlanFile) -> DpPlan:
    """What this silo's row of a charter would be."""
    source = DataSource.model_validate(config.data.model_dump())
    dp = plan.dp
    unit = unit_of(dp, [source.columns.person is not None])
    units = None
    if dp.sizes == "public":
        units = count_units(load_records(source), unit)
    own = silo_noise(plan, unit, config.name, units)
    most = dp.records_per_person or DEFAULT_RECORDS_PER_PERSON
    return DpPlan(
        kind=dp.kind,
        sample_rate=own.sample_rate,
        noise_multiplier=own.noise_multiplier,
        clip=dp.clip,
        expected_batch=own.expected_batch,
        local_steps=plan.tuning.local_steps,
        rounds=plan.rounds,
        spare_charges=dp.spare_charges,
        delta=dp.delta,
        target_epsilon=dp.epsilon,
        unit=unit,
        sizes=dp.sizes,
        records_per_person=most if unit == "person" else None,
        evaluation=plan.evaluation_of(config.name),
    )
