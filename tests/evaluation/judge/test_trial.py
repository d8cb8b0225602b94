"""Verdicts: read strictly, had once, kept through a kill, and added up."""

from __future__ import annotations

import json
import stat

import pytest
from evaluation.adapted import demo_adapter
from evaluation.judging_server import JudgingServer

from fedit_secure.demo.base_model_files import base_model_path
from fedit_secure.errors import ConfigError, ConnectError
from fedit_secure.evaluation.chat import wording_of
from fedit_secure.evaluation.contenders import Contenders
from fedit_secure.evaluation.judge.answers import local_answers
from fedit_secure.evaluation.judge.endpoint import Endpoint
from fedit_secure.evaluation.judge.questions import (
    Question,
    load_answers,
    load_questions,
)
from fedit_secure.evaluation.judge.tally import tally
from fedit_secure.evaluation.judge.trial import (
    Transcript,
    Verdict,
    asks,
    prompt_tokens,
    run,
)
from fedit_secure.evaluation.judge.wording import read_verdict
from fedit_secure.tuning.saved_adapter import read_peft_adapter

QUESTIONS = [Question(str(n), (f"What is {n}?",)) for n in range(3)]
FIRST = {str(n): (f"poor {n}",) for n in range(3)}
SECOND = {str(n): (f"good {n}",) for n in range(3)}


@pytest.fixture
def server():
    with JudgingServer().serving() as running:
        yield running


@pytest.fixture
def judge(server):
    url = server.url
    with Endpoint(url, "gpt", tries=2, sleep=lambda _: None) as endpoint:
        yield endpoint


def fair(body):
    """Scores what it reads: "good" 8, "poor" 4, wherever they stand."""
    text = body["messages"][1]["content"]
    a_is_good = text.index("good") < text.index("poor")
    return "8 4\nA." if a_is_good else "4 8\nB."


@pytest.mark.parametrize(
    ("reply", "scores"),
    [
        ("8 9", (8, 9)),
        ("\n 8.5  1 \nbecause", (8.5, 1)),
        ("7, 10\n", (7, 10)),
        ("8", None),
        ("8 9 10", None),
        ("A: 8 B: 9", None),
        ("Scores: 8 9", None),
        ("8/10 9/10", None),
        ("0 5", None),
        ("11 5", None),
        ("-3 5", None),
        ("89", None),
        ("nan inf", None),
        ("", None),
        ("Both are fine.\n8 9", None),
    ],
)
def test_only_a_line_of_two_scores_is_a_verdict(reply, scores):
    assert read_verdict(reply) == scores


def test_every_pair_is_asked_in_both_orders_and_repeats(server, judge, tmp_path):
    server.reply = fair
    some = asks(QUESTIONS, FIRST, SECOND, repeats=2)
    verdicts = run(some, judge, Transcript(tmp_path / "t.jsonl"))
    assert len(server.bodies) == len(some) == 12
    shown = [body["messages"][1]["content"] for body in server.bodies]
    assert sum(t.index("good") < t.index("poor") for t in shown) == 6
    assert {(v.first, v.second) for v in verdicts} == {(4.0, 8.0)}
    found = tally(verdicts, 0.95, 0)
    assert (found.first_total, found.second_total, found.ratio) == (12, 24, 2)
    assert (found.wins, found.ties, found.losses) == (3, 0, 0)
    assert (found.win_rate, found.orders_agree) == (1, 1)
    assert (found.prompt_tokens, found.completion_tokens) == (1200, 120)
    assert prompt_tokens(some) > 12 * 100


def test_a_judge_that_prefers_a_place_prefers_nobody(judge, tmp_path):
    # The server's usual verdict: B is better, whoever it is.
    some = asks(QUESTIONS, FIRST, SECOND, repeats=1)
    found = tally(run(some, judge, Transcript(tmp_path / "t.jsonl")), 0.95, 0)
    assert (found.wins, found.ties, found.losses) == (0, 3, 0)
    assert (found.ratio, found.win_rate, found.orders_agree) == (1, 0.5, 0)


def test_a_run_that_dies_goes_on_where_it_was(server, judge, tmp_path):
    path = tmp_path / "t.jsonl"
    server.reply = fair
    server.script = ["ok", "ok", "ok", "500", "500"]
    some = asks(QUESTIONS, FIRST, SECOND, repeats=1)
    with pytest.raises(ConnectError):
        run(some, judge, Transcript(path))
    kept = path.read_bytes()
    assert kept.count(b"\n") == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(kept + b'{"key": "tor')  # killed while it wrote the fourth
    server.bodies.clear()
    verdicts = run(some, judge, Transcript(path))
    assert len(server.bodies) == 3
    assert path.read_bytes().startswith(kept)
    assert len(path.read_bytes().splitlines()) == 6
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server.bodies.clear()
    assert run(some, judge, Transcript(path)) == verdicts
    assert server.bodies == []


def test_another_answer_or_judge_is_another_verdict(server, judge, tmp_path):
    path = tmp_path / "t.jsonl"
    server.reply = fair
    run(asks(QUESTIONS, FIRST, SECOND, 1), judge, Transcript(path))
    server.bodies.clear()
    changed = SECOND | {"1": ("good, but other",)}
    run(asks(QUESTIONS, FIRST, changed, 1), judge, Transcript(path))
    assert len(server.bodies) == 2
    with Endpoint(server.url, "another") as other:
        run(asks(QUESTIONS, FIRST, SECOND, 1), other, Transcript(path))
    assert len(server.bodies) == 8


def test_an_unreadable_verdict_is_asked_for_again_and_then_counted(
    server, judge, tmp_path
):
    server.reply = fair
    server.script = ["words", "words", "ok", "words", "words", "words"]
    some = asks(QUESTIONS, FIRST, SECOND, repeats=1)
    verdicts = run(some, judge, Transcript(tmp_path / "t.jsonl"))
    assert (verdicts[0].first, verdicts[0].prompt_tokens) == (4.0, 300)
    assert (verdicts[1].first, verdicts[1].reply) == (None, "I prefer B.")
    found = tally(verdicts, 0.95, 0)
    assert (found.questions, found.unread_questions, found.unread_verdicts) == (2, 1, 1)
    with pytest.raises(ConfigError, match="no question a readable verdict"):
        tally(verdicts[:2], 0.95, 0)


def test_wins_ties_and_their_interval():
    def pair(question, first, second):
        return [
            Verdict("", question, swapped, 0, first, second, "", 1, 1)
            for swapped in (False, True)
        ]

    scores = [(5, 6)] * 6 + [(6, 5)] * 2 + [(5, 5)] * 2
    verdicts = [v for n, (a, b) in enumerate(scores) for v in pair(str(n), a, b)]
    found = tally(verdicts, 0.9, 1)
    assert (found.wins, found.ties, found.losses, found.win_rate) == (6, 2, 2, 0.7)
    assert found.ratio == pytest.approx(56 / 52)
    assert found.low < 0.7 < found.high


@pytest.mark.parametrize("content", ["hello", "[1]\n", '{"key": "x"}\n'])
def test_a_file_that_is_no_transcript_is_left_alone(tmp_path, content):
    path = tmp_path / "precious"
    path.write_text(content)
    with pytest.raises(ConfigError, match="verdict"):
        Transcript(path)
    assert path.read_text() == content


def test_questions_and_answers_in_fastchats_layout_and_plainer(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text(
        '{"question_id": 81, "category": "writing", "turns": ["One?", "Two?"]}\n\n'
        '{"question_id": "x", "question": "Three?"}\n'
    )
    assert load_questions(path) == [
        Question("81", ("One?", "Two?"), "writing"),
        Question("x", ("Three?",)),
    ]
    path.write_text(
        '{"question_id": 81, "choices": [{"index": 0, "turns": ["1", "2"]}]}\n'
        '{"question_id": 82, "turns": ["3"]}\n{"question_id": "x", "answer": ""}\n'
    )
    assert load_answers(path) == {"81": ("1", "2"), "82": ("3",), "x": ("",)}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: isn't valid JSON"),
        ("[]", "line 2: isn't a JSON object"),
        ('{"turns": ["a"]}', "line 2: question_id is missing"),
        ('{"question_id": 1, "turns": ["a"]}', "line 2: question_id '1' occurs twice"),
        ('{"question_id": 2, "turns": []}', "line 2: has no turns"),
        ('{"question_id": 2, "turns": ["a", 3]}', "line 2: turns holds something"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, said):
    path = tmp_path / "q.jsonl"
    path.write_text('{"question_id": 1, "turns": ["a"]}\n' + line + "\n")
    with pytest.raises(ConfigError, match=said):
        load_questions(path)


def test_a_missing_answer_is_named():
    with pytest.raises(ConfigError, match="second model has no answer to question '2'"):
        asks(QUESTIONS, FIRST, {"0": ("a",), "1": ("b",)}, 1)


def test_answers_made_here_are_the_bases_and_the_adapters(tmp_path):
    saved = read_peft_adapter(demo_adapter(tmp_path / "adapter"))
    contenders = Contenders(base_model_path(), (saved,))
    two = [Question("a", ("Say it.", "Again.")), Question("b", ("Set the flag.",))]
    found = local_answers(contenders, two, wording_of("alpaca"), 5)
    assert list(found) == ["base", saved.name]
    assert [len(turns) for turns in found["base"].values()] == [1, 1]
    assert found["base"] != found[saved.name]
    with pytest.raises(ConfigError, match="compares two"):
        local_answers(Contenders(base_model_path()), two, wording_of("alpaca"), 5)


def test_a_transcript_is_lines_that_people_can_read(server, judge, tmp_path):
    path = tmp_path / "t.jsonl"
    run(asks(QUESTIONS[:1], FIRST, SECOND, 1), judge, Transcript(path))
    line = json.loads(path.read_text().splitlines()[1])
    assert (line["question"], line["swapped"]) == ("0", True)
    assert line["reply"].endswith("B says more.")
