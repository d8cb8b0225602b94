"""A federation set up by docs/operator.md alone, each party on a machine of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from machines import Machine, machines, refusal
from operators_guide import (
    GUIDE,
    Carry,
    Command,
    SetKeys,
    Step,
    Write,
    steps,
    with_another,
)
from safetensors.numpy import load_file

NAMESPACES = refusal()
SECONDS = 400
RECORDS = {"north": 2400, "south": 3100, "east": 2900}
AFTERWARDS = [
    "fedit aggregator status hub/aggregator.yaml",
    "fedit budget history south/silo.yaml",
]
WORDS = ["the", "patient", "has", "a", "mild", "fever", "and", "takes", "a", "dose"]


@pytest.fixture
def fedit(tmp_path: Path) -> Path:
    """A folder for the path, with `fedit` as installed beside this interpreter."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "fedit"
    script.write_text(
        f'#!/bin/sh\nexec {sys.executable} -m fedit_secure.cli.main "$@"\n'
    )
    script.chmod(0o755)
    return folder


def prepare(machine: Machine, base: Path) -> None:
    """What each party brings: its copy of the base model, and its records."""
    silo = machine.folder / machine.name
    shutil.copytree(base, silo / "model")
    number = len(machine.name)
    rows = [
        {
            "instruction": f"what is {WORDS[i % len(WORDS)]} {i}",
            "response": " ".join(
                WORDS[(i * number + j) % len(WORDS)] for j in range(4)
            ),
        }
        for i in range(RECORDS[machine.name])
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (silo / "records.jsonl").write_text(lines)


class Walk:
    """Takes the steps; keeps what every command printed."""

    def __init__(self, found: dict[str, Machine], path: Path) -> None:
        self.machines = found
        self.printed: dict[str, str] = {}
        self.going: list[tuple[str, subprocess.Popen[str]]] = []
        python = (
            f"{Path(__file__).parents[2]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        )
        self.environment = {
            "PATH": f"{path}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(path),
            "PYTHONPATH": python,
            "OMP_NUM_THREADS": "1",
        }

    def place(self, machine: str, path: str) -> Path:
        return self.machines[machine].folder / path

    def take(self, step: Step) -> None:
        match step:
            case Write(place, text):
                self.place(place.machine, place.path).write_text(text)
            case SetKeys(place, text):
                self.set_keys(self.place(place.machine, place.path), text)
            case Carry(start, end):
                target = self.place(end.machine, end.path)
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.place(start.machine, start.path), target)
            case Command(machine, line, True):
                self.start(machine, line)
            case Command(machine, line, False):
                self.run(machine, line)

    def set_keys(self, path: Path, text: str) -> None:
        for key, value in yaml.safe_load(text).items():
            line = f"{key}: {json.dumps(value)}"
            before = path.read_text()
            after = re.sub(rf"^{key}:.*$", line, before, flags=re.MULTILINE)
            assert before != after, f"{path.name} has no line for {key}"
            path.write_text(after)

    def run(self, machine: str, line: str) -> None:
        done = self.machines[machine].run(
            shlex.split(line), env=self.environment, input="y\n", timeout=SECONDS
        )
        assert done.returncode == 0, f"{machine}: {line}\n{done.stdout}\n{done.stderr}"
        self.printed[line] = done.stdout

    def start(self, machine: str, line: str) -> None:
        log = self.place(machine, f"log-{len(self.going)}").open("w")
        process = subprocess.Popen(
            self.machines[machine].command(shlex.split(line)),
            cwd=self.machines[machine].folder,
            env=self.environment,
            stdout=log,
            stderr=log,
            text=True,
        )
        log.close()
        self.going.append((f"{machine}/log-{len(self.going)}: {line}", process))

    def wait(self) -> None:
        for what, process in self.going:
            status = process.wait(SECONDS)
            machine, _, log = what.partition(":")[0].partition("/")
            words = self.place(machine, log).read_text()
            assert status == 0, f"{what} ended with {status}\n{words[-3000:]}"
        self.going.clear()

    def end(self) -> None:
        for _, process in self.going:
            process.terminate()
        for _, process in self.going:
            process.wait(30)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(NAMESPACES is not None, reason=NAMESPACES or "")
@pytest.mark.parametrize(
    "names", [("north", "south"), ("north", "south", "east")], ids=len
)
def test_the_guide_alone_sets_up_a_federation(
    names: tuple[str, ...], tmp_path: Path, tiny_base: Path, fedit: Path
) -> None:
    to_take = steps(of_two=len(names) == 2)
    for more in names[2:]:
        to_take = [for_three(step) for step in with_another(to_take, more)]
    with machines(tmp_path, names) as found:
        for machine in found.values():
            (machine.folder / "cards").mkdir()
        walk = Walk(found, fedit)
        try:
            prepared = False
            for step in to_take:
                made = isinstance(step, Command) and step.line.startswith("fedit data")
                if made and not prepared:
                    for machine in found.values():
                        prepare(machine, tiny_base)
                    prepared = True
                goes_on = isinstance(step, Command) and step.goes_on
                if walk.going and not goes_on:
                    walk.wait()
                walk.take(step)
        finally:
            walk.end()
        check(walk, names)


def for_three(step: Step) -> Step:
    """The plan with a third silo, and without what is for two only."""
    if not isinstance(step, Write):
        return step
    south = re.search(r"^  south: .*$", step.text, re.MULTILINE)
    assert south
    east = f"  east: {{records: {RECORDS['east']}}}"
    plan = step.text.replace(south[0], f"{south[0]}\n{east}")
    return Write(step.place, re.sub(r"^secagg:.*\n", "", plan, flags=re.MULTILINE))


def check(walk: Walk, names: tuple[str, ...]) -> None:
    read = [
        match and " ".join(match[1].split())
        for line, text in walk.printed.items()
        if "charter approve" in line or "charter verify" in line
        for match in [re.search(r"words\W+((?:[a-z]+\s+){14}[a-z]+)", text)]
    ]
    assert len(read) == len(names) + 1
    assert None not in read
    assert len(set(read)) == 1, "the operators read other words to each other"
    (run,) = walk.place("north", "hub/state").glob("*/rounds")
    certified = sorted(run.glob("*/certificate.frame"))
    assert len(certified) == 3
    adapter = load_file(run.parent / "adapter" / "adapter_model.safetensors")
    assert max(np.abs(value).max() for value in adapter.values()) > 0
    for name in names:
        entries = (run.parent / "ledgers" / f"{name}.jsonl").read_bytes().splitlines()
        kinds = [json.loads(entry)["kind"] for entry in entries]
        assert kinds.count("intent") == 3
    assert all(line in walk.printed for line in AFTERWARDS)


def test_every_command_of_the_guides_first_parts_is_walked() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    # The numbered ones: what stands between them may be done at any time.
    parts = re.findall(r"^## [2-6]\. .*?(?=^## )", text, re.DOTALL | re.MULTILINE)
    assert len(parts) == 5
    setup = "".join(parts)
    # What may be done instead isn't walked.
    setup = re.sub(
        r"<!-- or -->\n```.*?^```\n", "", setup, flags=re.DOTALL | re.MULTILINE
    )
    fences = re.findall(r"^```(.*?)\n(.*?)^```$", setup, re.DOTALL | re.MULTILINE)
    blocks = [block for language, block in fences if not language]
    said = {
        line.partition("  #")[0].strip()
        for block in blocks
        for line in block.splitlines()
        if line.startswith("fedit ")
    }
    walked = {step.line for step in steps(of_two=True) if isinstance(step, Command)}
    assert said
    assert said <= walked
