"""A starts along the main directions of inputs that the base model wrote by itself."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from architecture_row import build
from architectures import ROWS
from tiny_models import base_model, random_examples

from fedit_secure.errors import ConfigError
from fedit_secure.tuning import own_text
from fedit_secure.tuning.adapter import (
    adapter_parameters,
    attach_adapter,
    initial_adapter,
    write_adapter,
)
from fedit_secure.tuning.examples import load_template
from fedit_secure.tuning.job import LoraConfig
from fedit_secure.tuning.own_text import (
    own_examples,
    principal_adapter,
    turned_to_own_text,
)

TEMPLATE = load_template("alpaca_short")
TUNED = [row for row in ROWS if not row.named]


def turned(examples, rank=3, targets="all-linear", family="llama"):
    """(Every A by its layer, every layer's inputs, the drawn A's)."""
    model, lora = base_model(family), LoraConfig(rank=rank, targets=targets)
    _, drawn = initial_adapter(model, lora, seed=7)
    vector = principal_adapter(model, lora, drawn, examples)
    tuned = attach_adapter(base_model(family), lora)
    inputs: dict[str, list[torch.Tensor]] = {}
    for name, module in tuned.named_modules():
        if hasattr(module, "lora_A"):
            inputs[name] = []

            def see(_, given, name=name):
                inputs[name].append(given[0][0])

            module.register_forward_pre_hook(see)
    found = []
    for values in (drawn, vector):
        write_adapter(tuned, values)
        found.append(
            {
                key.split(".lora_A")[0]: p.detach().double().numpy().copy()
                for key, p in adapter_parameters(tuned)
                if ".lora_A." in key
            }
        )
    for example in examples:
        tokens = torch.from_numpy(example.tokens[:-1])[None]
        with torch.no_grad():
            tuned(tokens)
    seen = {name: torch.cat(parts).double().numpy() for name, parts in inputs.items()}
    return found[1], seen, found[0]


def whole(examples):
    """The same, with a loss on everything, as own records have it."""
    return [type(e)(e.tokens, 1) for e in examples]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("count", [3, 30])
def test_a_spans_the_main_directions_of_its_inputs(family, count):
    """Fewer inputs than their width, and more; padding beside shorter ones."""
    examples = whole(random_examples(count, longest=9 if count == 3 else 20))
    found, inputs, drawn = turned(examples, family=family)
    assert found.keys() == inputs.keys()
    for name, a in found.items():
        seen = inputs[name]
        _, _, right = np.linalg.svd(seen, full_matrices=False)
        lengths = np.linalg.norm(a, axis=1)
        assert np.allclose(lengths, lengths[0], rtol=1e-5)
        along = np.abs(np.sum(a / lengths[:, None] * right[: len(a)], axis=1))
        assert np.allclose(along, 1, atol=1e-4), name
        # As long in the mean as a Kaiming draw's, whose rows catch a width-th each.
        energy = np.square(seen @ a.T).sum()
        kaiming = np.square(seen).sum() * len(a) / (3 * seen.shape[1])
        assert energy == pytest.approx(kaiming, rel=1e-4)
        assert not np.allclose(a, drawn[name])


def test_it_catches_more_of_the_inputs_than_a_draw():
    found, inputs, drawn = turned(whole(random_examples(30)))
    for name, a in found.items():
        kept = [
            np.square(inputs[name] @ np.linalg.qr(b.T)[0]).sum()
            for b in (a, drawn[name])
        ]
        assert kept[0] > 1.5 * kept[1], name


def test_beyond_the_inputs_directions_it_stays_as_drawn():
    (example,) = whole(random_examples(1, longest=4))
    directions = len(example.tokens) - 1
    found, _, drawn = turned([example], rank=8, targets=("q_proj",))
    for name, a in found.items():
        assert np.array_equal(a[directions:], drawn[name][directions:])
        assert not np.allclose(a[:directions], drawn[name][:directions])


def test_it_depends_on_the_seed_alone_and_changes_no_answer(tokenizer):
    model, lora = base_model(), LoraConfig(rank=3)
    layout, drawn = initial_adapter(model, lora, seed=7)

    def at(seed, noise):
        torch.manual_seed(noise)
        return turned_to_own_text(
            model, lora, drawn, tokenizer, TEMPLATE, 64, seed=seed
        )

    vector = at(7, 1)
    assert np.array_equal(at(7, 2), vector)
    assert not np.array_equal(at(8, 1), vector)
    tokens = torch.arange(3, 20)[None]
    with torch.no_grad():
        left, before = model(tokens).logits, base_model()(tokens).logits
        tuned = attach_adapter(model, lora)
        write_adapter(tuned, vector)
        after = tuned(tokens).logits
    assert torch.equal(left, before)
    assert torch.equal(after, before)
    start = 0
    for key, shape in layout:
        stop = start + int(np.prod(shape))
        assert (".lora_B." in key) == (not vector[start:stop].any())
        start = stop


def test_own_records_are_in_the_wording_of_the_run(tokenizer):
    examples = own_examples(base_model(), tokenizer, TEMPLATE, 60, count=3, seed=1)
    assert len(examples) == 3
    for example in examples:
        assert len(example.tokens) <= 60
        assert example.labels == len(example.tokens) - 1
        assert "Response:" in tokenizer.decode(example.tokens)


def test_a_tokenizer_without_a_first_token_is_told():
    nothing = SimpleNamespace(bos_token_id=None, eos_token_id=None, name_or_path="base")
    with pytest.raises(
        ConfigError, match=r"'base' has no token .* leave out 'lora.init"
    ):
        own_examples(base_model(), nothing, TEMPLATE, 60, count=3, seed=1)


@pytest.mark.parametrize("row", TUNED, ids=lambda row: row.name)
def test_every_architecture_that_is_tuned_can_begin_so(row, tokenizer, monkeypatch):
    monkeypatch.setattr(own_text, "ASKED", 2)
    monkeypatch.setattr(own_text, "ANSWERED", 6)
    model, lora = build(row), LoraConfig(rank=2, targets=row.targets)
    layout, drawn = initial_adapter(model, lora, seed=1)
    own = own_examples(model, tokenizer, TEMPLATE, 64, count=2, seed=1)
    vector = principal_adapter(model, lora, drawn, own)
    assert np.isfinite(vector).all()
    start = 0
    for key, shape in layout:
        stop = start + int(np.prod(shape))
        if ".lora_A." in key:
            assert not np.array_equal(vector[start:stop], drawn[start:stop]), key
        start = stop
