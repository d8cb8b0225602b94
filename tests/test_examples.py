"""The files that operators copy are files that fedit reads."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from fedit_secure.cli.main import main
from fedit_secure.config import load_plan, load_policy, load_silo_config

ROOT = Path(__file__).parents[1]
# `fedit charter draft` of `fedit charter draft plan.yaml cards/`.
COMMAND = re.compile(r"^(?:\$ )?fedit ([a-z]+(?: [a-z]+(?=\s|$))?)", re.MULTILINE)
SILOS = sorted(path for path in (ROOT / "silos").iterdir() if path.is_dir())


@pytest.mark.parametrize("silo", SILOS, ids=lambda path: path.name)
def test_example_silo_loads(silo: Path) -> None:
    config = load_silo_config(silo / "silo.yaml")
    assert config.name == silo.name
    assert config.policy == silo / "policy.yaml"
    policy = load_policy(config.policy)
    assert not policy.allow_without_dp
    assert not policy.allow_pair


@pytest.mark.parametrize("silo", SILOS, ids=lambda path: path.name)
def test_example_unit_runs_a_command_that_exists(
    silo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(silo / "fedit-silo.service", encoding="utf-8")
    program, *command, config = unit["Service"]["ExecStart"].split()
    assert Path(program).name == "fedit"
    assert Path(config).name == "silo.yaml"
    assert main([*command, "--help"]) == 0
    assert "silo.yaml" in capsys.readouterr().out


def test_plan_of_the_operators_guide_loads(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "operator.md").read_text(encoding="utf-8")
    pattern = r"<!-- write north:plan.yaml -->\n```yaml\n(.*?)```"
    (text,) = re.findall(pattern, guide, re.DOTALL)
    (tmp_path / "plan.yaml").write_text(text, encoding="utf-8")
    plan = load_plan(tmp_path / "plan.yaml")
    assert set(plan.silos) == {"north", "south"}
    assert plan.secagg.allow_pair


def test_every_command_of_the_documents_exists(
    capsys: pytest.CaptureFixture[str],
) -> None:
    documents = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    commands: set[str] = set()
    for document in documents:
        text = document.read_text(encoding="utf-8")
        for block in re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL):
            commands.update(COMMAND.findall(block))
    assert commands
    for command in sorted(commands):
        assert main([*command.split(), "--help"]) == 0, f"`fedit {command}`"
        assert f"Usage: fedit {command}" in capsys.readouterr().out
