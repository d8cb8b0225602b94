"""Delete every check of the trusted core, one at a time: some attack test must fail.

    make mutants [ONLY=checks.py]

A mutant is a copy of the package in which one check of `secagg/` is gone: a statement that
does nothing but call a check, an `if` that does nothing but raise, one operand of an `and`
or `or` in a condition, or one of two bounds in a chained comparison. It is killed if the
core's tests (attacks first) fail against it. Mutants that survive must stand in EQUIVALENT
with the reason why nothing observable changed; otherwise the status is 1.
"""

from __future__ import annotations

import ast
import copy
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORE = Path("fedit_secure/secagg")
CHECKS = (
    "expect",
    "check",
    "verify",
    "refuse",
    "signed",
    "by_aggregator",
    "keys_differ",
)
CHECKING_MODULES = ("checks",)
TESTS = ("tests/attacks", "tests/secagg", "tests/properties/test_release.py")
LEFT_OUT = ("tests/attacks/test_leaks.py",)  # statistics: no check is theirs
LIMIT_SECONDS = 600

EQUIVALENT: dict[str, str] = {}
"""Mutant (file: what is gone) -> why no test can tell."""


@dataclass(frozen=True)
class Mutant:
    """One file of the core without one check."""

    path: Path
    line: int
    gone: str
    source: str

    @property
    def name(self) -> str:
        """Stable while the check stays as it is, wherever it stands in the file."""
        return f"{self.path.name}: {self.gone}"


def is_check(call: ast.expr) -> bool:
    """Whether an expression statement is a check: nothing uses what it returns."""
    if not isinstance(call, ast.Call):
        return False
    name = call.func
    if isinstance(name, ast.Attribute):
        module = name.value.id if isinstance(name.value, ast.Name) else ""
        return module in CHECKING_MODULES or name.attr.startswith(CHECKS)
    return isinstance(name, ast.Name) and name.id.startswith(CHECKS)


def only_raises(node: ast.stmt) -> bool:
    """`if ...: raise ...` and no more."""
    if not isinstance(node, ast.If) or node.orelse:
        return False
    return len(node.body) == 1 and isinstance(node.body[0], ast.Raise)


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Every mutant of one file."""
    text = (ROOT / path).read_text(encoding="utf-8")
    tree = ast.parse(text)
    for index, node in enumerate(ast.walk(tree)):
        for body in ("body", "orelse", "finalbody"):
            statements = getattr(node, body, None)
            for place, statement in enumerate(
                statements if isinstance(statements, list) else ()
            ):
                called = isinstance(statement, ast.Expr) and is_check(statement.value)
                if called or only_raises(statement):
                    changed = _nth(tree, index)
                    getattr(changed[1], body)[place] = ast.Pass()
                    yield _made(path, statement, changed[0], ast.unparse(statement))
        if isinstance(node, ast.BoolOp):
            for place, operand in enumerate(node.values):
                changed = _nth(tree, index)
                del changed[1].values[place]
                gone = f"{ast.unparse(operand)} of {ast.unparse(node)}"
                yield _made(path, node, changed[0], gone)
        if isinstance(node, ast.Compare) and len(node.ops) > 1:
            for place in (0, len(node.ops) - 1):
                changed = _nth(tree, index)
                compare = changed[1]
                if place == 0:
                    compare.left = compare.comparators[0]
                del compare.ops[place], compare.comparators[place]
                yield _made(
                    path, node, changed[0], f"end {place} of {ast.unparse(node)}"
                )


def _nth(tree: ast.Module, index: int) -> tuple[ast.Module, ast.AST]:
    """A copy of the tree, and in it the node that stands there in walking order."""
    made = copy.deepcopy(tree)
    return made, next(node for i, node in enumerate(ast.walk(made)) if i == index)


def _made(path: Path, at: ast.AST, tree: ast.Module, gone: str) -> Mutant:
    for node in ast.walk(tree):  # `a and` with one operand left is that operand
        if isinstance(node, ast.BoolOp) and len(node.values) == 1:
            node.values.append(node.values[0])
    first = gone.splitlines()[0]
    gone = first if first == gone else f"{first} ..."
    return Mutant(path, at.lineno, gone, ast.unparse(tree))  # type: ignore[attr-defined]


def survives(mutant: Mutant, package: Path) -> bool:
    """Whether all tests pass against this mutant."""
    target = package / mutant.path
    target.write_text(mutant.source, encoding="utf-8")
    command = [str(Path(sys.executable).parent / "pytest"), "-x", "-q", *TESTS]
    command += ["-p", "no:cacheprovider", "--hypothesis-seed=0"]
    command += [f"--ignore={path}" for path in LEFT_OUT]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(package)},
            capture_output=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False  # it hangs: noticed
    finally:
        shutil.copyfile(ROOT / mutant.path, target)
    return done.returncode == 0


def main(only: list[str]) -> int:
    """Try all mutants; print the survivors; 1 if one isn't justified."""
    files = sorted(p.relative_to(ROOT) for p in (ROOT / CORE).glob("*.py"))
    todo = [x for p in files if not only or p.name in only for x in mutants_of(p)]
    began, unjustified, killed = time.monotonic(), [], 0
    with tempfile.TemporaryDirectory(prefix="fedit-mutants-") as folder:
        package = Path(folder)
        shutil.copytree(
            ROOT / "fedit_secure",
            package / "fedit_secure",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        for number, mutant in enumerate(todo, 1):
            alive = survives(mutant, package)
            killed += not alive
            if alive:
                reason = EQUIVALENT.get(mutant.name)
                print(
                    f"{mutant.path}:{mutant.line}: survives: {mutant.gone}", flush=True
                )
                print(f"    {reason or 'NOT JUSTIFIED'}", flush=True)
                unjustified += [mutant] if reason is None else []
            elif number % 20 == 0:
                print(f"{number} of {len(todo)}", flush=True)
    minutes = (time.monotonic() - began) / 60
    print(
        f"{len(todo)} mutants, {killed} killed, {len(todo) - killed} survive, ", end=""
    )
    print(f"{len(unjustified)} of them unjustified; {minutes:.0f} min")
    return 1 if unjustified else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
