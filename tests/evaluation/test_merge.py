"""A merged folder answers as base and adapter do, and says what it was made of."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from evaluation.adapted import adapt, adapted_logits, demo_adapter, save_tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.errors import ConfigError
from fedit_secure.evaluation.merge import (
    MERGED,
    Merge,
    agreed_digest,
    charter_of_run,
    merge,
)
from fedit_secure.federation.base_model import base_model_digest
from fedit_secure.tuning.saved_adapter import read_peft_adapter

TOKENS = torch.arange(3, 35)[None]


@pytest.fixture(params=["llama", "gpt2", "gemma2", "demo"])
def parts(request, tmp_path):
    """A base model and an adapter of it."""
    if request.param == "demo":
        base = base_model_path()
    else:
        base = save_tiny(tmp_path / "base", request.param)
    return SimpleNamespace(base=base, adapter=adapt(base, tmp_path / "adapter"))


@pytest.fixture
def demo(tmp_path):
    adapter = read_peft_adapter(demo_adapter(tmp_path / "adapter"))
    return Merge(base_model_path(), adapter, tmp_path / "merged")


def changed(what, **fields):
    values = {name: getattr(what, name) for name in what.__slots__}
    return Merge(**(values | fields))


def test_merged_model_has_the_logits_of_base_and_adapter(parts, tmp_path):
    output = tmp_path / "merged"
    merge(Merge(parts.base, read_peft_adapter(parts.adapter), output))
    model = AutoModelForCausalLM.from_pretrained(output).eval()
    with torch.no_grad():
        found = model(input_ids=TOKENS).logits
        alone = AutoModelForCausalLM.from_pretrained(parts.base, dtype=torch.float32)
        unadapted = alone.eval()(input_ids=TOKENS).logits
    expected = adapted_logits(parts.base, parts.adapter, TOKENS)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (unadapted - expected).abs().max() > 0.01
    ours, theirs = (AutoTokenizer.from_pretrained(f) for f in (output, parts.base))
    text = "### Instruction:\nSay 3.\n\n### Response:\n"
    assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    assert ours.eos_token_id == theirs.eos_token_id


def test_the_folder_says_what_was_merged(demo):
    told = merge(demo)
    written = json.loads((demo.output / MERGED).read_text())
    assert written == told
    assert written["base_model"] == base_model_digest(demo.base).hex()
    assert written["adapter"] == demo.adapter.digest
    assert written["merged_model"] == base_model_digest(demo.output).hex()
    files = {path.name for path in demo.output.iterdir()}
    assert set(written["files"]) == files - {MERGED}
    assert not any(name.endswith((".bin", ".pt")) for name in files)
    assert [
        path.name for path in demo.output.parent.iterdir() if "." in path.name
    ] == []


def test_bfloat16_is_written_where_it_is_asked_for(demo):
    merge(changed(demo, precision="bfloat16"))
    model = AutoModelForCausalLM.from_pretrained(demo.output)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_a_quantised_base_is_refused(demo, tmp_path):
    base = shutil.copytree(demo.base, tmp_path / "quantised")
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
    }
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="quantised from"):
        merge(changed(demo, base=base))
    assert not demo.output.exists()


def test_another_base_model_is_refused_by_its_digest(demo, tmp_path):
    base = shutil.copytree(demo.base, tmp_path / "other")
    (base / "added_tokens.json").write_text("{}")
    agreed = base_model_digest(demo.base).hex()
    merge(changed(demo, base_digest=agreed))
    with pytest.raises(ConfigError, match="isn't the base model that was agreed on"):
        merge(changed(demo, base=base, base_digest=agreed, force=True))
    assert json.loads((demo.output / MERGED).read_text())["base_model"] == agreed


def test_another_base_model_is_refused_by_its_tensors(demo, tmp_path):
    with pytest.raises(ConfigError, match=r"adapter: (the layout|LoRA)"):
        merge(changed(demo, base=save_tiny(tmp_path / "tiny")))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "tiny"]


def test_only_an_earlier_merge_is_replaced_and_only_by_force(demo):
    merge(demo)
    (demo.output / "stale.txt").write_text("from before")
    with pytest.raises(ConfigError, match="--force"):
        merge(demo)
    merge(changed(demo, force=True))
    assert not (demo.output / "stale.txt").exists()


@pytest.mark.parametrize("kind", ["a folder", "a file", "a link"])
def test_nothing_but_an_earlier_merge_is_ever_replaced(demo, tmp_path, kind):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    if kind == "a link":
        (precious / MERGED).write_text("{}")
        demo.output.symlink_to(precious)
    if kind == "a file":
        demo.output.write_text("years of work")
    target = precious if kind == "a folder" else demo.output
    with pytest.raises(ConfigError, match="isn't replaced"):
        merge(changed(demo, output=target, force=True))
    assert (precious / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("place", ["adapter", "adapter/merged", "."])
def test_the_parts_own_folders_are_never_the_output(demo, tmp_path, place):
    with pytest.raises(ConfigError, match="adapter's own folder"):
        merge(changed(demo, output=tmp_path / place, force=True))


def test_a_failed_write_leaves_nothing(demo, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedit_secure.evaluation.merge.base_model_digest", full)
    with pytest.raises(Exception, match="No space left"):
        merge(demo)
    assert [path.name for path in demo.output.parent.iterdir()] == ["adapter"]


@pytest.mark.parametrize("where", ["adapter", "rounds/003/adapter"])
def test_the_runs_own_charter_is_found(tmp_path, where):
    (tmp_path / where).mkdir(parents=True)
    assert charter_of_run(tmp_path / where) is None
    (tmp_path / "charter.json").write_text("{}")
    assert charter_of_run(tmp_path / where) == tmp_path / "charter.json"


def test_without_a_charter_no_digest_is_known(demo):
    assert agreed_digest(None, demo.adapter) is None
