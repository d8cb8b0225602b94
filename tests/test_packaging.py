"""The wheel and the sdist: all of the package, nothing else, and it runs once installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
NAME = f"fedit_secure-{PROJECT['version']}"


def tracked(*under: str) -> list[str]:
    """The files of the checkout that aren't ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(
        [*command, *under], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = filter(None, listed.stdout.split("\0"))
    return [name for name in names if (ROOT / name).is_file()]


def build(source: Path, into: Path, *what: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", *what]
    done = subprocess.run(
        [*command, "--outdir", str(into), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, the wheel made of it, and in tree/ the one made of the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in tracked():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    folder = tmp_path_factory.mktemp("dist")
    build(source, folder)
    build(source, folder / "tree", "--wheel")
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    assert found.name == f"{NAME}-py3-none-any.whl"
    return found


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as whole:
        assert whole.testzip() is None
        return {name: whole.read(name) for name in whole.namelist()}


def test_the_wheel_has_all_of_the_package_and_nothing_else(wheel: Path) -> None:
    held = contents(wheel)
    package = {name for name in held if ".dist-info/" not in name}
    assert package == set(tracked("fedit_secure"))
    for name in (
        "fedit_secure/py.typed",
        "fedit_secure/audit/templates/report.html.j2",
        "fedit_secure/demo/base_model/model.safetensors",
    ):
        assert held[name] == (ROOT / name).read_bytes()
    info = {name.rpartition("/")[2] for name in held.keys() - package}
    assert info == {
        "LICENSE",
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "top_level.txt",
    }


def test_the_wheel_says_what_it_needs_and_what_it_runs(wheel: Path) -> None:
    held = contents(wheel)
    told = HeaderParser().parsestr(held[f"{NAME}.dist-info/METADATA"].decode())
    assert told["Requires-Python"] == PROJECT["requires-python"]
    assert set(told.get_all("Provides-Extra", [])) == set(
        PROJECT["optional-dependencies"]
    )
    needs = [n for n in told.get_all("Requires-Dist", []) if "extra ==" not in n]
    assert {*needs} == {*PROJECT["dependencies"]}
    scripts = held[f"{NAME}.dist-info/entry_points.txt"].decode()
    assert "fedit = fedit_secure.cli.main:run" in scripts


def test_the_sdist_builds_the_wheel_of_the_checkout(dist: Path, wheel: Path) -> None:
    (other,) = (dist / "tree").glob("*.whl")
    assert contents(wheel) == contents(other)


def test_the_sdist_has_the_package_and_how_to_build_it(dist: Path) -> None:
    with tarfile.open(dist / f"{NAME}.tar.gz") as whole:
        names = {
            m.name.removeprefix(f"{NAME}/") for m in whole.getmembers() if m.isfile()
        }
    assert set(tracked("fedit_secure")) <= names
    top = {name.partition("/")[0] for name in names}
    assert top == {
        "LICENSE",
        "MANIFEST.in",
        "PKG-INFO",
        "README.md",
        "constraints.txt",
        "fedit_secure",
        "fedit_secure.egg-info",
        "pyproject.toml",
        "setup.cfg",
    }


# --------------------------------------------------------------------- once installed


class Installed:
    """The wheel in a virtual environment of its own, away from the checkout."""

    def __init__(self, folder: Path, wheel: Path, extras: str = "") -> None:
        self.folder = folder
        venv.create(folder / "venv", with_pip=True)
        options = ["--quiet", "--no-input", "--progress-bar", "off"]
        pins = ["-c", str(ROOT / "constraints.txt")]
        self.run("pip", "install", *options, *pins, f"{wheel}{extras}")

    def run(self, program: str, *arguments: str, status: int = 0) -> str:
        """What a program of the environment prints; a failure for another status."""
        path = self.folder / "venv" / "bin" / program
        foreign = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
        done = subprocess.run(
            [str(path), *arguments],
            cwd=self.folder,
            env={k: v for k, v in os.environ.items() if k not in foreign},
            capture_output=True,
            text=True,
            check=False,
        )
        said = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert done.returncode == status, said
        return done.stdout + done.stderr if status else done.stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_wheel_runs_a_federation_and_the_core_alone_audits_it(
    wheel: Path, tmp_path: Path
) -> None:
    (tmp_path / "silo").mkdir()
    silo = Installed(tmp_path / "silo", wheel, "[silo]")
    assert "Usage: fedit" in silo.run("fedit", "--help")
    versions = json.loads(silo.run("fedit", "version", "--format", "json"))
    assert versions["fedit-secure"] == PROJECT["version"]
    silo.run(
        *("fedit", "demo", "--silos", "3", "--rounds", "1"),
        *("--output", "demo", "--format", "json"),
    )
    (bundle,) = (tmp_path / "silo" / "demo").rglob("bundle.zip")

    (tmp_path / "core").mkdir()
    core = Installed(tmp_path / "core", wheel)
    held = core.run("pip", "list", "--format", "freeze").lower()
    assert "grpcio" in held
    for heavy in ("torch", "transformers", "peft", "opacus", "datasets", "pyarrow"):
        assert f"{heavy}==" not in held
    verdict = core.run("fedit", "audit", "verify", str(bundle), "--format", "json")
    assert json.loads(verdict)["passed"] is True
    core.run("fedit", "aggregator", "init", "hub", "--contact", "it@hub.example")
    assert (tmp_path / "core" / "hub" / "identity" / "hub.card").is_file()
    said = core.run("fedit", "demo", "--output", "demo", status=4)
    assert "pip install 'fedit-secure[silo]'" in said
