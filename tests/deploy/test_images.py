"""The Dockerfiles: linted, without root, and with nothing in the context but the source."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from deploy.deployed import DEPLOY, ROOT, tool

from fedit_secure.cli.main import main
from fedit_secure.config import AggregatorConfig, SiloConfig

IMAGES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))


def instructions(path: Path) -> list[tuple[str, str]]:
    """Every instruction with its arguments, continued lines joined."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = (line.strip() for line in text.splitlines())
    parts = (line.partition(" ") for line in lines if line and line[0] != "#")
    return [(word, " ".join(rest.split())) for word, _, rest in parts]


def final(path: Path) -> list[tuple[str, str]]:
    """The instructions of the last stage."""
    whole = instructions(path)
    last = max(i for i, (word, _) in enumerate(whole) if word == "FROM")
    return whole[last:]


def test_each_role_has_an_image() -> None:
    assert [path.stem for path in IMAGES] == ["aggregator", "silo"]


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(image: Path) -> None:
    done = subprocess.run(
        [tool("hadolint"), "--failure-threshold", "style", str(image)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.stem)
def test_an_image_runs_the_daemon_without_root(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = dict(final(image))
    user, _, group = said["USER"].partition(":")
    assert min(int(user), int(group)) >= 10_000
    assert json.loads(said["ENTRYPOINT"]) == ["fedit"]
    *command, config = json.loads(said["CMD"])
    assert main([*command, "--help"]) == 0
    assert Path(config).name in capsys.readouterr().out
    assert Path(config).parent.as_posix() == said["WORKDIR"]
    assert said["STOPSIGNAL"] == "SIGTERM"


def test_an_aggregator_is_asked_where_it_answers_health_checks() -> None:
    said = dict(final(DEPLOY / "docker" / "aggregator.Dockerfile"))
    python, dash_m, module, address = json.loads(
        said["HEALTHCHECK"].partition(" CMD ")[2]
    )
    assert (python, dash_m) == ("python", "-m")
    assert find_spec(module)
    assert address == re.findall(r"FEDIT_HEALTH=(\S+)", said["ENV"])[0]


@pytest.mark.parametrize("page", ["", "127.0.0.1:9464"])
def test_a_silo_is_asked_at_its_page_or_its_books_are_read(
    page: str, tmp_path: Path
) -> None:
    """It is run as the container's shell runs it, with programs that say their name."""
    said = dict(final(DEPLOY / "docker" / "silo.Dockerfile"))
    command = json.loads(said["HEALTHCHECK"].partition(" CMD ")[2])
    for name in ("python", "fedit"):
        program = tmp_path / name
        program.write_text('#!/bin/sh\necho "${0##*/} $*"\nexit 1\n')
        program.chmod(0o755)
    done = subprocess.run(
        command,
        env={"PATH": str(tmp_path), "FEDIT_PAGE__LISTEN": page},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1  # that of the program
    asked = f"python -m fedit_secure.watch.ask_healthz {page}"
    assert done.stdout.strip() == (
        asked if page else "fedit silo status /fedit/silo.yaml"
    )
    assert find_spec(asked.split()[2])
    assert main(["silo", "status", "--help"]) == 0


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.stem)
def test_an_image_has_what_the_page_needs(image: Path) -> None:
    commands = " ".join(rest for word, rest in instructions(image) if word == "RUN")
    extras = re.findall(r"(?:extras=|\[)([a-z,]+)", commands)
    assert extras
    assert all("web" in each.split(",") for each in extras if each != "extras")


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.stem)
def test_an_images_environment_names_keys_of_the_configuration(image: Path) -> None:
    model = {"aggregator": AggregatorConfig, "silo": SiloConfig}[image.stem]
    named = re.findall(r"\bFEDIT_([A-Z_]+)=", dict(final(image))["ENV"])
    assert named
    assert {name.lower() for name in named} <= set(model.model_fields)


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.stem)
def test_an_image_takes_the_tested_versions_and_leaves_its_tools_behind(
    image: Path,
) -> None:
    whole = instructions(image)
    (base,) = (
        rest for word, rest in whole if word == "ARG" and rest.startswith("BASE=")
    )
    pinned = re.fullmatch(r"BASE=python:(\d+\.\d+)\.\d+-slim-[a-z]+", base)
    assert pinned, base
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert f">={pinned[1]}" == project["requires-python"]
    assert {rest for word, rest in whole if word == "FROM"} == {
        "${BASE} AS build",
        "${BASE}",
    }
    commands = [rest for word, rest in whole if word == "RUN"]
    installs = re.findall(r"pip install [^&]+", " ".join(commands))
    assert installs
    assert all("-c constraints.txt" in x or "^torch==" in x for x in installs)
    assert all(word != "RUN" or "pip" not in rest for word, rest in final(image))


def test_the_build_context_is_what_the_images_copy() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {line.removeprefix("!") for line in rules if line.startswith("!")}
    copied: set[str] = set()
    for image in IMAGES:
        for word, rest in instructions(image):
            if word == "COPY" and not rest.startswith("--from="):
                copied.update(rest.split()[:-1])
            assert word != "ADD"
    assert let_in == copied
    assert all((ROOT / name).exists() for name in let_in)
