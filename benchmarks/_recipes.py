"""How each arm of the utility benchmarks is tuned.

Chosen on the validation part of a seed that isn't reported, each arm by itself: a silo
alone and a pooled run keep one optimiser throughout, because nothing interrupts them.
"""

from __future__ import annotations

from dataclasses import replace

from _arms import Recipe

EXPLORING = 100
"""The seed on whose validation part recipes are chosen; none that is reported."""

FEDIT = Recipe(
    rounds=24,
    steps=1,
    batch=16,
    by_records=True,
    optimizer="sgd",
    rate=0.1,
    rule="fedadam",
    server_rate=6e-3,
    tau=1e-5,
)
ALONE = Recipe(rounds=1, steps=24, batch=16, rate=3e-3)
POOLED = Recipe(rounds=1, steps=24, batch=160, rate=6e-3)

PRIVATE = Recipe(
    rounds=20,
    steps=1,
    batch=192,
    by_records=True,
    optimizer="sgd",
    rate=1.0,
    clip=0.5,
    epsilon=8.0,
    rank=16,
    init="own-text",
    aggregation="ffa",
    rule="fedadam",
    server_rate=0.012,
    tau=2e-4,
)
"""A step a round: a mean over silos then has the least noise for what it costs them."""
PRIVATE_BOTH = replace(PRIVATE, rank=8, aggregation=None, server_rate=0.008)
"""A and B, as many coordinates; they want a smaller rate."""
PRIVATE_ALTERNATING = replace(PRIVATE_BOTH, aggregation="alternating")
PRIVATE_FEDSA = replace(
    PRIVATE,
    rounds=4,
    steps=2,
    batch=128,
    optimizer="adamw",
    rate=1e-2,
    rank=8,
    aggregation="fedsa",
    rule="fedavg",
    server_rate=1.0,
)
"""B is each silo's own, so its optimiser is, too; A has no gradient before B has moved."""
PRIVATE_ALONE = replace(
    PRIVATE, rounds=8, batch=128, rank=8, server_rate=0.01, tau=1e-3
)
"""Few steps and coordinates: nobody else's noise averages with its own."""
PRIVATE_POOLED = replace(PRIVATE, batch=10 * PRIVATE.batch)


TAU = {8.0: 2e-4, 3.0: 2e-4, 1.0: 1e-3}
"""By epsilon, chosen on the validation part of Dolly; at 3 MedQuAD's decided."""


def federated_at(recipe: Recipe, epsilon: float) -> Recipe:
    """A federation's recipe at this epsilon.

    `alternating` moves each factor in half of the rounds; smaller moves cost it more than
    the noise does, so it keeps its tau.
    """
    tau = recipe.tau if recipe.aggregation == "alternating" else TAU[epsilon]
    return replace(recipe, epsilon=epsilon, tau=tau)


def full(recipe: Recipe) -> Recipe:
    """As Shepherd tunes: whole template, cut at 512, four times as many steps."""
    return replace(recipe, template="alpaca", max_tokens=512, rounds=4 * recipe.rounds)


def as_it_is(recipe: Recipe) -> Recipe:
    """The default size."""
    return recipe


def quick(recipe: Recipe) -> Recipe:
    """Enough to see that a script runs."""
    steps = min(recipe.steps, 2)
    return replace(recipe, rounds=min(recipe.rounds, 2), steps=steps, batch=16)
