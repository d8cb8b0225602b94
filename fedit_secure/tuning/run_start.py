"""Where a run starts: the base model, template and adapter of a plan, and its charter.

Drafting is the one step before tuning that has to look into the base model, so it needs
the silo's packages; everybody else gets the result as two files.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from fedit_secure.config import PlanFile
from fedit_secure.errors import ConfigError
from fedit_secure.federation.base_model import base_model_digest
from fedit_secure.federation.card import Card
from fedit_secure.federation.charter import BaseModelRow, Charter, TemplateRow
from fedit_secure.federation.drafting import draft_charter
from fedit_secure.federation.server_rules import ServerRule
from fedit_secure.federation.update import GridState, from_float32, with_moments
from fedit_secure.tuning.base_model import (
    load_base_model,
    load_tokenizer,
    refuse_too_long,
    resolve_base_model,
)
from fedit_secure.tuning.examples import Template, load_template
from fedit_secure.tuning.job import Layout, LoraConfig


def draft_run(
    plan: PlanFile,
    cards: Sequence[Card],
    today: date,
    *,
    predecessor: Charter | None = None,
    given: GridState | None = None,
    rule: ServerRule | None = None,
) -> tuple[Charter, GridState]:
    """The charter of `plan` for the parties of `cards`, and the state it starts from.

    `predecessor` is the epoch before, `given` the state to start from instead of a drawn
    one, and `rule` a simulation's instead of the plan's. Raises ConfigError: a bad plan or
    card, an unknown model, a template that there isn't or that can't be used with the
    model's tokenizer, a cut beyond the model's positions, a given state of another adapter.
    """
    folder = resolve_base_model(plan.base_model)
    template = load_template(plan.template, load_tokenizer(folder))
    base = BaseModelRow(
        name=_name(plan.base_model), digest=base_model_digest(folder).hex()
    )
    start = _initial_state(plan, folder, template, given)
    state = with_moments(start, rule or plan.update_rule)
    charter = draft_charter(
        plan,
        cards,
        base_model=base,
        template=TemplateRow(name=template.name, digest=template.digest.hex()),
        layout=state.adapter_layout,
        initial_digest=state.digest(),
        today=today,
        predecessor=predecessor,
        goes_on=given is not None,
    )
    return charter, state


def _name(model: str) -> str:
    # A folder's path is one machine's business; its name is enough for people.
    path = Path(model)
    return path.resolve().name if path.is_dir() else model


def _initial_state(
    plan: PlanFile, folder: Path, template: Template, given: GridState | None
) -> GridState:
    """The given state, or a drawn one, or one from the base model's own text.

    What the silos would trip over once everybody has approved is refused here.
    """
    try:
        from fedit_secure.tuning.adapter import initial_adapter
        from fedit_secure.tuning.own_text import turned_to_own_text
    except ImportError as error:
        raise ConfigError(
            f"drafting looks into the base model and needs {error.name}; run pip install "
            "'fedit-secure[silo]'"
        ) from error
    model, tokenizer = load_base_model(folder), load_tokenizer(folder)
    refuse_too_long(model, tokenizer, plan.max_tokens)
    lora = LoraConfig(**plan.lora.model_dump(exclude={"aggregation", "init"}))
    layout, values = initial_adapter(model, lora, plan.seed)
    if given is None:
        if plan.lora.init == "own-text":
            reader = (tokenizer, template, plan.max_tokens)
            values = turned_to_own_text(model, lora, values, *reader, seed=plan.seed)
        return from_float32(layout, values)
    if given.adapter_layout != layout:
        raise ConfigError(
            f"initial state {plan.initial_state}: its tensors aren't those of this base "
            "model under this LoRA plan: "
            f"{_first_difference(given.adapter_layout, layout)}"
        )
    return given


def _first_difference(given: Layout, wanted: Layout) -> str:
    for mine, theirs in zip(given, wanted, strict=False):
        if mine != theirs:
            return f"it has {mine[0]} {mine[1]} in the place of {theirs[0]} {theirs[1]}"
    return f"it has {len(given)} tensors instead of {len(wanted)}"
