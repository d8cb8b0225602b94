"""A run under `template: chat`, and every command that comes after it."""

from __future__ import annotations

import json
import shutil

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import fedit_secure
from fedit_secure.cli.main import main
from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.errors import ConfigError
from fedit_secure.evaluation.chat import wording_of
from fedit_secure.evaluation.contenders import Contenders
from fedit_secure.evaluation.judge.answers import local_answers
from fedit_secure.evaluation.judge.questions import Question
from fedit_secure.tuning.base_model import load_tokenizer
from fedit_secure.tuning.examples import load_template
from fedit_secure.tuning.saved_adapter import read_peft_adapter

# Every turn ends with a token that isn't the tokenizer's own end of sequence.
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:\n{{ m.content | trim }}<s>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)
BEGIN, END = 1, 2
PLAN = {
    "template": "chat",
    "max_tokens": 48,
    "lora": {"rank": 2, "targets": ["layers.3.mlp.down_proj"]},
    "tuning": {"learning_rate": 1e-3, "local_steps": 1},
    "rounds": 1,
    "dp": {"kind": "none", "expected_batch": 4},
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    base = shutil.copytree(base_model_path(), folder / "base")
    (base / "chat_template.jinja").write_text(TEMPLATE)
    data = {}
    for name in ("north", "south", "east"):
        rows = [
            {"instruction": f"Say {n} for {name}.", "response": f"It is {n}.<s> " * 9}
            for n in range(6)
        ]
        data[name] = folder / f"{name}.jsonl"
        data[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = PLAN | {"base_model": str(base)}
    return fedit_secure.simulate(data, plan, folder=folder / "run")


def fedit(capsys, *arguments):
    status = main([*map(str, arguments), "--format", "json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return json.loads(captured.out)


def base_of(done):
    return done.folder.parents[1] / "base"


def test_the_charter_pins_the_frame(done):
    agreed = done.charter.template
    tokenizer = load_tokenizer(base_of(done))
    assert agreed.name == "chat"
    assert agreed.digest == load_template("chat", tokenizer).digest.hex()
    tokenizer.chat_template = "new " + TEMPLATE
    with pytest.raises(ConfigError, match="isn't the one that was agreed on"):
        load_template("chat", tokenizer, agreed.digest)


def test_evaluate_chat_and_data_check_take_it_from_the_charter(done, capsys):
    adapter, data = done.folder / "adapter", done.folder.parents[1] / "north.jsonl"
    found = fedit(capsys, "evaluate", data, "--adapter", adapter, "--max-new-tokens", 3)
    assert found["template"] == "chat"
    assert [row["model"] for row in found["scores"]] == ["base", str(adapter)]
    said = fedit(
        capsys, "chat", "--adapter", adapter, "--once", "Say 1.",
        "--max-new-tokens", 4, "--compare",
    )  # fmt: skip
    assert list(said["answers"]) == ["base", str(adapter)]
    checked = fedit(capsys, "data", "check", done.folder.parent / "north/silo.yaml")
    assert checked["responses_cut"] == 6
    assert checked["records_without_response_tokens"] == 0


def test_the_judges_questions_are_worded_so_too(done):
    saved = read_peft_adapter(done.folder / "adapter")
    two = [Question("a", ("Say it.", "Again.")), Question("b", ("Say 2.",))]
    wording = wording_of("chat", done.charter.template.digest)
    found = local_answers(Contenders(base_of(done), (saved,)), two, wording, 4)
    # A conversation: the second turn is answered too.
    assert [len(turns) for turns in found[saved.name].values()] == [2, 1]


def test_a_merged_model_ends_its_turns_in_other_programs(done, capsys):
    output = done.folder.parents[1] / "merged"
    fedit(capsys, "merge", done.folder / "adapter", "-o", output)
    merged = AutoModelForCausalLM.from_pretrained(output)
    assert merged.generation_config.eos_token_id == [BEGIN, END]
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert tokenizer.chat_template == TEMPLATE
    agreed = done.charter.template.digest
    assert load_template("chat", tokenizer, agreed).digest.hex() == agreed


def test_a_plan_with_a_template_that_cannot_be_used_is_refused(tmp_path):
    base = shutil.copytree(base_model_path(), tmp_path / "base")
    data = {}
    for name in ("north", "south"):
        data[name] = tmp_path / f"{name}.jsonl"
        data[name].write_text('{"instruction": "Say.", "response": "It."}\n' * 4)
    plan = PLAN | {"base_model": str(base), "secagg": {"allow_pair": True}}
    with pytest.raises(ConfigError, match="has no chat template"):
        fedit_secure.simulate(data, plan, folder=tmp_path / "run")
