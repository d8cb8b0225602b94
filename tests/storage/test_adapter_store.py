"""States by digest, and adapters that PEFT opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedit_secure.errors import StorageError
from fedit_secure.federation.update import GridState, from_float32
from fedit_secure.storage.adapter_store import StateStore, save_peft

LAYOUT = (("a", (3, 2)), ("b", (4,)))
VALUES = np.linspace(-1, 1, 10, dtype=np.float32)


def state(scale: float = 1.0) -> GridState:
    return from_float32(LAYOUT, VALUES * np.float32(scale))


def test_a_state_is_found_by_its_digest(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "states")
    digest = store.put(state())
    assert digest == state().digest()
    assert store.put(state()) == digest
    got = store.get(digest)
    assert got.layout == LAYOUT
    assert np.array_equal(got.values, state().values)
    assert bytes(store.find(digest) or b"") == state().to_bytes()
    other = store.put(state(0.5))
    assert other != digest
    assert store.get(digest).digest() == digest


def test_a_state_that_isnt_there(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    assert store.find(b"x" * 32) is None
    with pytest.raises(StorageError, match="there is no state 7878"):
        store.get(b"x" * 32)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_a_damaged_state_is_refused_and_can_be_put_again(
    tmp_path: Path, damage: str
) -> None:
    store = StateStore(tmp_path)
    digest = store.put(state())
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    path.write_bytes(
        {
            "cut": data[:-1],
            "flip": data[:-1] + bytes([data[-1] ^ 1]),
            "empty": b"",
            "other": state(0.5).to_bytes(),
        }[damage]
    )
    with pytest.raises(StorageError, match=r"damaged|named after"):
        store.get(digest)
    store.put(state())
    assert store.get(digest).digest() == digest


def test_a_folder_that_cant_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can't be made"):
        StateStore(tmp_path / "file")
    with pytest.raises(StorageError, match="can't be made"):
        save_peft(tmp_path / "file", {}, LORA, "base")


# ------------------------------------------------------------------------------- PEFT

LORA = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear"}


def test_an_adapter_is_two_files_replaced_as_a_whole(tmp_path: Path) -> None:
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    for fill in (1.0, 2.0):
        arrays = {key: np.full((2, 3), fill, np.float32)}
        save_peft(tmp_path / "adapter", arrays, LORA, "base")
    files = sorted(p.name for p in (tmp_path / "adapter").iterdir())
    assert files == ["adapter_config.json", "adapter_model.safetensors"]
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert list(saved) == [key]
    assert (saved[key] == 2.0).all()
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj"]
    assert (config["r"], config["lora_alpha"]) == (2, 4)
    assert config["base_model_name_or_path"] == "base"


def tiny_llama() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    return transformers.LlamaForCausalLM(config)


def tiny_gpt2() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=60, n_embd=16, n_layer=2, n_head=2, n_positions=32
    )
    return transformers.GPT2LMHeadModel(config)


@pytest.mark.parametrize(
    ("make", "targets"),
    [
        (tiny_llama, "all-linear"),
        (tiny_llama, ["q_proj", "v_proj"]),
        (tiny_gpt2, "all-linear"),
    ],
    ids=["llama", "llama_attention", "gpt2"],
)
def test_peft_opens_the_adapter(
    tmp_path: Path, make: Any, targets: str | list[str]
) -> None:
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = make().eval()
    base.save_pretrained(tmp_path / "base")
    tokens = torch.arange(12).reshape(1, 12)
    plain = base(tokens).logits

    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=targets
    )
    tuned = peft.get_peft_model(base, config).eval()
    arrays = {}
    rng = np.random.default_rng(1)
    for name, parameter in tuned.named_parameters():
        if parameter.requires_grad:
            value = rng.normal(size=tuple(parameter.shape)).astype(np.float32)
            arrays[name.replace(".default.", ".")] = value
            parameter.data.copy_(torch.from_numpy(value))
    expected = tuned(tokens).logits
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": targets}
    save_peft(tmp_path / "adapter", arrays, lora, str(tmp_path / "base"))

    fresh = type(base).from_pretrained(tmp_path / "base")
    opened = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    got = opened(tokens).logits
    assert not torch.allclose(expected, plain, atol=1e-2)
    assert torch.equal(got, expected)
    names = {n for n, _ in opened.named_parameters() if "lora_" in n}
    assert {n.replace(".default.", ".") for n in names} == set(arrays)


def test_many_readers_share_one_mapping(tmp_path: Path) -> None:
    """A state that N silos fetch at once is in the aggregator's memory once."""
    store = StateStore(tmp_path)
    digest = store.put(state())
    first, second = store.find(digest), store.find(digest)
    assert isinstance(first, memoryview)
    assert isinstance(second, memoryview)
    assert first.obj is second.obj
    (path,) = tmp_path.iterdir()
    path.unlink()
    assert store.find(digest) is None
    store.put(state())
    again = store.find(digest)
    assert isinstance(again, memoryview)
    assert again.obj is not first.obj
    assert bytes(again) == bytes(first)
