"""The units are what systemd reads, harden what they can, and run commands that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
from deploy.deployed import DEPLOY, EXAMPLES, ROOT, tool

from fedit_secure import errors
from fedit_secure.cli.main import main
from fedit_secure.config import Torchrun

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
DAEMONS = [unit for unit in UNITS if "@" not in unit.name]
RANK = DEPLOY / "systemd" / "fedit-rank@.service"
DROP_INS = [path for silo in EXAMPLES for path in silo.glob("*.service.d/*.conf")]
EXPOSURE = 15  # tenths, of at most 100
TRANSIENT = {0, 1, 2, 3, 5}  # what a restart may cure


def settings(path: Path) -> dict[str, list[str]]:
    """Every key of a unit with its values, in order."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            found.setdefault(key, []).append(value)
    return found


def laid_out(unit: Path, into: Path) -> Path:
    """The unit and its drop-ins as under /etc, with a program that is there."""
    text = unit.read_text(encoding="utf-8")
    text, found = re.subn(
        r"(?m)^ExecStart=\S+", f"ExecStart={shutil.which('true')}", text
    )
    assert found == 1
    copy = into / unit.name.replace("@", "@1")
    copy.write_text(text, encoding="utf-8")
    for conf in DROP_INS:
        if conf.parent.name == f"{unit.name}.d":
            folder = into / conf.parent.name
            folder.mkdir(exist_ok=True)
            shutil.copy(conf, folder / conf.name)
    return copy


def test_there_are_units_and_drop_ins() -> None:
    assert [unit.name for unit in UNITS] == [
        "fedit-aggregator.service",
        "fedit-rank@.service",
        "fedit-silo.service",
    ]
    assert {conf.parent.parent for conf in DROP_INS} == set(EXAMPLES)


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_reads_a_unit_without_a_complaint(unit: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [tool("systemd-analyze"), "verify", "--man=no", str(laid_out(unit, tmp_path))],
        capture_output=True,
        text=True,
        check=False,
    )
    # What it says of units that are installed here isn't about ours.
    said = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert not said
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_is_hardly_exposed(unit: Path, tmp_path: Path) -> None:
    command = [tool("systemd-analyze"), "security", "--offline=true"]
    done = subprocess.run(
        [*command, f"--threshold={EXPOSURE}", str(laid_out(unit, tmp_path))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("unit", DAEMONS, ids=lambda path: path.stem)
def test_a_unit_is_told_of_readiness_and_life(unit: Path) -> None:
    said = settings(unit)
    assert said["Type"] == ["notify"]
    assert said["WatchdogSec"]
    # By a name and not a path, so that keys without a passphrase need no file.
    assert said["LoadCredential"] == [f"fedit-passphrase:{unit.stem}-passphrase"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_keeps_what_it_writes_and_holds_to_itself(unit: Path) -> None:
    said = settings(unit)
    assert said["UMask"] == ["0077"]
    assert said["LimitCORE"] == ["0"]
    assert said["CapabilityBoundingSet"] == [""]


@pytest.mark.parametrize("unit", DAEMONS, ids=lambda path: path.stem)
def test_a_restart_is_for_what_it_may_cure(unit: Path) -> None:
    known = {
        kind.exit_status
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.FeditError)
    }
    (prevented,) = settings(unit)["RestartPreventExitStatus"]
    assert {*map(int, prevented.split())} == {*known, 9} - TRANSIENT


@pytest.mark.parametrize("unit", DAEMONS, ids=lambda path: path.stem)
def test_a_unit_runs_a_command_that_exists(
    unit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = settings(unit)["ExecStart"]
    program, *command, config = line.split()
    assert Path(program).name == "fedit"
    assert main([*command, "--help"]) == 0
    assert Path(config).name in capsys.readouterr().out
    (folder,) = settings(unit)["StateDirectory"]
    assert Path(config).parent.name == folder
    accounts = (DEPLOY / "systemd" / "fedit.sysusers.conf").read_text(encoding="utf-8")
    assert re.search(rf"^u {settings(unit)['User'][0]} ", accounts, re.MULTILINE)


def test_a_further_hosts_unit_runs_the_command_of_the_operators_guide() -> None:
    """With the values of the file beside it; and it is shut in as the silo's daemon is."""
    said, silo = settings(RANK), settings(RANK.with_name("fedit-silo.service"))
    values = settings(RANK.with_name("fedit-rank.conf"))
    (line,) = said["ExecStart"]
    line = re.sub(r"\$\{(\w+)\}", lambda name: values[name[1]][0], line)
    program, *words = line.replace("%i", "1").split()
    page = (ROOT / "docs" / "operator.md").read_text(encoding="utf-8")
    (told,) = re.findall(r"(?m)^torchrun .*$", page)
    default = Torchrun().patience_seconds
    assert Path(program).name == "torchrun"
    assert words == [*told.split()[1:], "--patience", str(default)]
    assert find_spec(words[words.index("-m") + 1])
    assert said["Restart"] == ["always"]
    daemons_own = {
        "NotifyAccess", "TimeoutStartSec", "WatchdogSec", "RestartPreventExitStatus",
        "LoadCredential", "StartLimitBurst",
    }  # fmt: skip
    assert set(silo) - set(said) == daemons_own
    differ = {key for key in set(said) & set(silo) if said[key] != silo[key]}
    assert differ == {
        "Description", "StartLimitIntervalSec", "Type", "ExecStart", "Restart", "RestartSec"
    }  # fmt: skip


def test_the_fixture_notices_a_setting_that_systemd_doesnt_know(tmp_path: Path) -> None:
    unit = tmp_path / "bad.service"
    unit.write_text("[Service]\nExecStart=/bin/fedit\nProtectSistem=strict\n", "utf-8")
    done = subprocess.run(
        [tool("systemd-analyze"), "verify", "--man=no", str(laid_out(unit, tmp_path))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ProtectSistem" in done.stderr
