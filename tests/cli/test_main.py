from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from fedit_secure import errors
from fedit_secure.cli import main as main_module

FEDIT = Path(sys.executable).parent / "fedit"


def processor_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_fast():
    """By the least processor time of five: what shares a core with us makes each longer."""
    times = []
    for _ in range(5):
        before = processor_seconds()
        done = subprocess.run(
            [FEDIT, "--help"], capture_output=True, text=True, check=False
        )
        times.append(processor_seconds() - before)
        assert done.returncode == 0
        assert "charter" in done.stdout
        assert done.stderr == ""
    assert min(times) < 0.3, times


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from fedit_secure.cli.main import main; main(['--help']);"
        "heavy = {'torch', 'numpy', 'pydantic', 'grpc', 'rich', 'scipy', 'yaml'};"
        "sys.exit(str(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("charter",), ("silo",), ("aggregator",), ("budget",), ("data",),
        ("charter", "approve"), ("silo", "serve"), ("simulate",), ("demo",),
        ("budget", "show"), ("budget", "set"), ("budget", "history"),
    ],
)  # fmt: skip
def test_every_command_has_help(fedit, arguments):
    result = fedit(*arguments, "--help")
    assert result.status == 0
    assert "Usage: fedit" in result.out


def test_version(fedit):
    found = fedit("version", "--format", "json").json
    assert found["fedit-secure"] == "0.1.0"
    assert found["numpy"].split(".")[0] == "2"
    assert "0.1.0" in fedit("version").out


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("charter", "shwo"),
        ("charter", "show", "--nonsense"),
        ("silo", "init"),
        ("silo", "init", "a", "--contact", "x", "--tell-records", "many"),
        ("version", "--format", "xml"),
    ],
)
def test_bad_arguments_end_with_4(fedit, arguments):
    result = fedit(*arguments)
    assert result.status == 4
    assert result.out == ""
    assert result.err.startswith("fedit: ")


STATUSES = {
    errors.FeditError("x"): 1,
    errors.FaultySilo("a", "x"): 1,
    errors.FaultyAggregator("x"): 1,
    errors.TuningFailed("x"): 1,
    errors.StorageError("x"): 1,
    errors.ConnectError("x"): 2,
    errors.DeadlineExceeded("x"): 3,
    errors.ConfigError("x"): 4,
    errors.PolicyRefusal("x"): 6,
    errors.BudgetExhausted("x"): 7,
    errors.QuorumLost("x"): 8,
}


@pytest.mark.parametrize("error", STATUSES, ids=lambda e: type(e).__name__)
def test_each_error_has_its_documented_status(fedit, monkeypatch, error):
    def raises(*arguments, **options):
        raise error

    monkeypatch.setattr(main_module, "app", raises)
    result = fedit("version")
    assert result.status == STATUSES[error]
    assert result.err == f"fedit: {error}\n"


@pytest.mark.parametrize(("package", "status"), [("torch", 4), ("numpy", 5)])
def test_a_missing_extra_says_how_to_get_it(fedit, monkeypatch, package, status):
    def raises(*arguments, **options):
        raise ModuleNotFoundError("No module", name=package)

    monkeypatch.setattr(main_module, "app", raises)
    result = fedit("demo")
    assert result.status == status
    assert ("pip install 'fedit-secure[silo]'" in result.err) == (status == 4)


@pytest.mark.parametrize("arguments", [(), ("charter",)])
def test_without_a_command_the_help_is_shown(fedit, arguments):
    result = fedit(*arguments)
    assert result.status == 4
    assert result.err.startswith("Usage: fedit")
    assert result.out == ""


def test_a_daemon_that_drained_ends_with_0(fedit, monkeypatch):
    def stops(*arguments, **options):
        raise SystemExit(0)

    monkeypatch.setattr(main_module, "app", stops)
    assert fedit("silo", "serve").status == 0


def test_a_bug_ends_with_5_and_one_line(fedit, monkeypatch):
    def raises(*arguments, **options):
        raise RuntimeError("one\ntwo")

    monkeypatch.setattr(main_module, "app", raises)
    result = fedit("version")
    assert result.status == 5
    assert result.err.count("\n") == 1
    assert "RuntimeError: one (this is a bug" in result.err
    assert "--debug" in result.err
    assert "Traceback" in fedit("version", "--debug").err


def test_debug_may_stand_anywhere(fedit, tmp_path):
    missing = tmp_path / "c.json"
    for arguments in (
        ("--debug", "charter", "show", missing),
        ("charter", "show", missing, "--debug"),
    ):
        result = fedit(*arguments)
        assert result.status == 4
        assert "Traceback" in result.err
        assert result.err.splitlines()[-1].startswith("fedit: charter ")


def test_an_interrupt_ends_with_130(fedit, monkeypatch):
    def raises(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(main_module, "app", raises)
    assert fedit("version").status == 130


def test_a_closed_pipe_is_no_error(tmp_path):
    done = subprocess.run(
        f"{FEDIT} --help | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
