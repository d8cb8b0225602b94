"""`fedit chat`, by its pipe, its options and a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys

import pytest
from evaluation.adapted import demo_adapter

from fedit_secure.cli.conversation import shown
from fedit_secure.demo.base_model_files import base_model_path

BASE = ("--model", base_model_path(), "--max-new-tokens", 6)


@pytest.fixture
def adapter(tmp_path):
    return demo_adapter(tmp_path / "adapter")


def test_once_prints_the_answer_alone(fedit):
    done = fedit("chat", *BASE, "--once", "Set the flag.")
    assert done.status == 0, done.err
    assert done.out.strip()
    again = fedit("chat", *BASE, "--once", "Set the flag.", "--format", "json")
    assert again.json == {
        "prompt": "Set the flag.",
        "answers": {"base": done.out.strip()},
    }


def test_comparison_names_who_speaks(fedit, adapter):
    done = fedit("chat", *BASE, "--adapter", adapter, "--compare", "--once", "Say it.")
    first, second = done.out.rstrip("\n").split(f"\n{adapter}: ")
    assert first.startswith("base: ")
    assert second != first.removeprefix("base: ")


def test_lines_come_from_a_pipe(fedit, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("One.\n\n  \nTwo.\n"))
    done = fedit("chat", *BASE, "--format", "json")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [line["prompt"] for line in lines] == ["One.", "Two."]


def test_an_interrupt_ends_an_answer_and_not_the_chat(fedit, adapter, monkeypatch):
    def interrupted(speaker, prompt, length, stops):
        yield "so far"
        if speaker.name == "base":
            raise KeyboardInterrupt
        yield " so good"

    monkeypatch.setattr("fedit_secure.evaluation.chat.answer", interrupted)
    monkeypatch.setattr("sys.stdin", io.StringIO("One.\nTwo.\n"))
    done = fedit("chat", *BASE, "--adapter", adapter, "--compare")
    assert done.status == 0
    assert done.out == f"base: so far [...]\n{adapter}: so far so good\n" * 2


def test_a_line_that_is_too_long_does_not_end_the_chat(fedit, monkeypatch):
    from fedit_secure.errors import ConfigError
    from fedit_secure.evaluation.chat import Instruction

    usual = Instruction.prompt

    def prompt(self, speaker, past, line, room):
        if line == "long":
            raise ConfigError("too long")
        return usual(self, speaker, past, line, room)

    monkeypatch.setattr(Instruction, "prompt", prompt)
    monkeypatch.setattr("sys.stdin", io.StringIO("long\nshort\n"))
    done = fedit("chat", *BASE, "--format", "json")
    assert done.status == 0
    assert "too long" in done.err
    assert [json.loads(line)["prompt"] for line in done.out.splitlines()] == ["short"]
    assert fedit("chat", *BASE, "--once", "long").status == 4


def test_a_models_words_cannot_command_the_terminal():
    assert shown("a\x1b[2Jb\x07\r\n\tc\u202ed") == "a[2Jb\n\tcd"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--adapter", "a", "--merged", "b"), "give --adapter or --merged"),
        ((), "give --model"),
        ((*BASE, "--compare"), "--compare needs"),
        ((*BASE, "--template", "chat", "--once", "x"), "has no chat template"),
    ],
)
def test_bad_arguments_get_one_sentence(fedit, options, said):
    done = fedit("chat", *options)
    assert done.status == 4
    assert said in done.err


def test_on_a_terminal_answers_stand_side_by_side(adapter):
    """Real keys on a real terminal: a line, then Ctrl-D."""
    command = [sys.executable, "-m", "fedit_secure.cli.main", "chat", "--compare"]
    options = [*map(str, BASE), "--adapter", str(adapter)]
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        [*command, *options], stdin=theirs, stdout=theirs, stderr=theirs, env=env
    )
    os.close(theirs)
    screen = ""

    def read_until(mark):
        nonlocal screen
        while mark not in screen:
            screen += os.read(ours, 4096).decode(errors="replace")

    try:
        read_until("> ")
        os.write(ours, b"Set the flag.\n")
        read_until("└")  # the first frame of the two columns
        assert "base" in screen
        screen = screen.rpartition("└")[2]
        read_until("> ")
        os.write(ours, b"\x04")
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
