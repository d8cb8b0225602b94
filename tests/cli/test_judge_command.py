"""`fedit judge`: what it says before it sends anything, and what it refuses to send."""

from __future__ import annotations

import json

import pytest
from evaluation.adapted import demo_adapter
from evaluation.judging_server import JudgingServer


@pytest.fixture
def server():
    with JudgingServer().serving() as running:
        yield running


@pytest.fixture
def judge(fedit, server, tmp_path):
    """The command with answers from files; returns its result."""
    lines = [json.dumps({"question_id": n, "turns": [f"What is {n}?"]}) for n in (1, 2)]
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    for name in ("a", "b"):
        rows = [json.dumps({"question_id": n, "answer": f"{name}{n}"}) for n in (1, 2)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))

    def run(*options, questions=tmp_path / "q.jsonl", answers=True):
        first = ("--first", tmp_path / "a.jsonl", "--second", tmp_path / "b.jsonl")
        return fedit(
            "judge", *([questions] if questions else []), *(first if answers else ()),
            "--endpoint", server.url, "--judge-model", "gpt",
            "--transcript", tmp_path / "t.jsonl", *options,
        )  # fmt: skip

    return run


def test_cost_is_told_before_anything_is_sent(judge, server):
    prices = ("--price-in", 1_000_000, "--price-out", 0)
    asked = judge(*prices)
    assert asked.status == 4
    assert "give --yes" in asked.err
    assert "4 of 4 verdicts" in asked.err
    assert f"are sent to {server.url}" in asked.err
    tokens = int(asked.err.split("about ")[1].split()[0])
    assert f"about {tokens:.2f} at most by the prices" in asked.err
    assert server.bodies == []


def test_a_whole_trial_and_its_resumption(judge, server, tmp_path):
    key = tmp_path / "key"
    key.write_text("sk-secret")
    key.chmod(0o600)
    done = judge("--yes", "--key-file", key, "--format", "json")
    assert done.status == 0, done.err
    assert (done.json["questions"], done.json["ties"]) == (2, 2)
    assert done.json["first"].endswith("a.jsonl")
    assert len(server.bodies) == 4
    assert {h["Authorization"] for h in server.headers} == {"Bearer sk-secret"}
    said = done.out + done.err + (tmp_path / "t.jsonl").read_text()
    assert "sk-secret" not in said
    again = judge("--format", "json")  # nothing is left to pay for, so nobody is asked
    assert again.json == done.json
    assert len(server.bodies) == 4


def test_base_and_adapter_answer_here(judge, server, tmp_path):
    adapter = demo_adapter(tmp_path / "adapter")
    options = ("--adapter", adapter, "--max-new-tokens", 4, "--yes", "--limit", 1)
    done = judge(*options, "--format", "json", answers=False)
    assert done.status == 0, done.err
    assert (done.json["first"], done.json["second"]) == ("base", str(adapter))
    assert len(server.bodies) == 2


@pytest.mark.parametrize("way", ["--silo", "its file"])
def test_a_silos_records_are_sent_only_with_consent(judge, server, federation, way):
    silo = federation / "clinic-a"
    records = silo / "records.jsonl"
    records.write_text(
        '{"question_id": 1, "turns": ["What?"], "instruction": "What?", "response": "x"}\n'
    )
    if way == "--silo":
        done = judge("--silo", silo / "silo.yaml", "--yes", questions=None)
    else:
        done = judge("--yes", questions=records)
    assert done.status == 6
    assert "--i-may-send-these" in done.err
    assert server.bodies == []
    if way == "its file":
        done = judge("--yes", "--i-may-send-these", questions=records)
        assert done.status == 0, done.err
        assert "depend on them without any privacy" in done.out
        assert len(server.bodies) == 2


@pytest.mark.parametrize(
    ("steps", "status", "said"),
    [
        (["401"], 2, "doesn't take the key"),
        (["404"], 4, "is 'gpt' a model there"),
        (["500"], 2, "gave no reply in 1 tries"),
        (["hang"], 3, "took too long"),
        (["words"] * 12, 4, "no question a readable verdict"),
    ],
)
def test_failures_have_their_own_exit_status(judge, server, steps, status, said):
    server.script = steps
    done = judge("--yes", "--tries", 1, "--timeout", 1)
    assert done.status == status
    assert said in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [(("--second", "b"), "give the answers of both"), ((), "there is no base model")],
)
def test_bad_arguments_get_one_sentence(judge, options, said):
    done = judge("--yes", *options, answers=False)
    assert done.status == 4
    assert said in done.err
    assert judge("--yes", questions=None).status == 4
