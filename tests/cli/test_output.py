from __future__ import annotations

import csv
import io
import json
import logging

import pytest

from fedit_secure.cli.logs import JsonLines, log_to_stderr
from fedit_secure.cli.output import OutputFormat, TableFormat, show, show_event

FACTS = {"name": "a", "count": 3, "rate": 0.123456789, "none": None, "ok": True,
         "names": ["x", "y"], "empty": []}  # fmt: skip
ROWS = [{"silo": "a", "epsilon": 1.25}, {"silo": "[red]b", "epsilon": None}]


@pytest.fixture
def root_logger():
    """Puts the logging of this process back as it was."""
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers[:], logger.level = handlers, level


def test_json_is_one_object(capsys):
    show(FACTS, OutputFormat.JSON, {"rows": ROWS})
    found = json.loads(capsys.readouterr().out)
    assert found == FACTS | {"rows": ROWS}


def test_json_on_one_line(capsys):
    show(FACTS, OutputFormat.JSON, one_line=True)
    assert capsys.readouterr().out.count("\n") == 1


def test_a_table_for_people(capsys):
    show(FACTS, OutputFormat.TABLE, {"rows": ROWS, "none": []})
    out = capsys.readouterr().out
    assert "count  3" in out
    assert "ok     yes" in out
    assert "empty  -" in out
    assert "0.123457" in out
    assert "[red]b" in out
    assert "1.25" in out


def test_a_table_as_csv(capsys):
    rows = [
        {"silo": "a", "why": 'said "no", twice', "epsilon": 1 / 3, "ok": True},
        {"silo": "b", "why": "two\nlines", "epsilon": None, "ok": False},
    ]
    show(FACTS, TableFormat.CSV, {"rows": rows})
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "silo,why,epsilon,ok"
    assert list(csv.DictReader(io.StringIO(out))) == [
        {key: "" if value is None else str(value) for key, value in row.items()}
        for row in rows
    ]
    show(FACTS, TableFormat.CSV, {"rows": []})
    assert capsys.readouterr().out == ""


def test_the_other_formats_of_a_table_are_those_of_everything(capsys):
    show(FACTS, TableFormat.JSON, {"rows": ROWS})
    assert json.loads(capsys.readouterr().out) == FACTS | {"rows": ROWS}
    show(FACTS, TableFormat.TABLE, {"rows": ROWS})
    assert "[red]b" in capsys.readouterr().out


def test_csv_is_offered_where_the_result_is_a_table(fedit):
    assert "csv" in fedit("budget", "history", "--help").out
    for command in (("budget", "show"), ("version",), ("silo", "init")):
        assert "csv" not in fedit(*command, "--help").out
    assert fedit("version", "--format", "csv").status == 4


def test_a_digest_is_never_cut(capsys):
    digest = "ab" * 32
    show({"digest": digest}, OutputFormat.TABLE, {"t": [{"d": digest}]})
    assert capsys.readouterr().out.count(digest) == 2


def test_events_are_json_lines_on_stdout(capsys):
    show_event(2, "clinic-a", "mask", OutputFormat.JSON)
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"round": 2, "silo": "clinic-a", "phase": "mask"}
    assert captured.err == ""


def test_events_are_in_the_log_elsewhere(capsys, root_logger):
    log_to_stderr("info")
    show_event(2, "clinic-a", "mask", OutputFormat.TABLE)
    captured = capsys.readouterr()
    line = json.loads(captured.err)
    assert (line["round"], line["silo"], line["phase"]) == (2, "clinic-a", "mask")
    assert captured.out == ""


def test_the_log_level_holds(capsys, root_logger):
    log_to_stderr("warning")
    logging.getLogger("fedit_secure").info("quiet")
    logging.getLogger("fedit_secure").warning("loud")
    assert json.loads(capsys.readouterr().err)["text"] == "loud"


def test_a_log_line_has_its_traceback():
    try:
        int("x")
    except ValueError:
        import sys

        record = logging.LogRecord(
            "n", logging.ERROR, "p", 1, "failed %s", ("here",), sys.exc_info()
        )
    line = json.loads(JsonLines().format(record))
    assert (line["level"], line["text"]) == ("error", "failed here")
    assert "ValueError: invalid" in line["traceback"]
