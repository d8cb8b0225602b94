"""The files that operators copy are files that fedit reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedit_secure.cli.main import main
from fedit_secure.config import (
    load_aggregator_config,
    load_plan,
    load_policy,
    load_silo_config,
)

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


def test_the_examples_differ_where_sites_do() -> None:
    configs = [load_silo_config(silo / "silo.yaml") for silo in SILOS]
    assert {config.device for config in configs} == {"cpu", "cuda"}
    assert {config.quantization for config in configs} == {"none", "nf4"}


def test_example_aggregator_loads() -> None:
    file = ROOT / "deploy" / "examples" / "aggregator.yaml"
    config = load_aggregator_config(file)
    assert config.listen.endswith(":7443")
    assert config.state == file.parent / "state"


@pytest.mark.parametrize("silo", SILOS, ids=lambda path: path.name)
def test_an_examples_readme_names_its_files(silo: Path) -> None:
    text = (silo / "README.md").read_text(encoding="utf-8")
    files = {p.relative_to(silo).as_posix() for p in silo.rglob("*") if p.is_file()}
    assert set(re.findall(r"^\| \[([^]]+)\]\(", text, re.MULTILINE)) == files - {
        "README.md"
    }


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
