"""The laws of the house that a machine can check; CONTRIBUTING.md gives the reasons."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fedit_secure"
GENERATED = PACKAGE / "wire" / "pb"

SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if GENERATED not in p.parents)
TRUSTED_CORE = sorted((PACKAGE / "secagg").rglob("*.py"))
PURE_CORE = TRUSTED_CORE + sorted((PACKAGE / "privacy").rglob("*.py"))

TRUSTED_CORE_BUDGET = 1_200  # code lines: no blanks, comments or docstrings
FILE_BUDGET = 400  # physical lines

# Extras that the package's own code imports.
USED = ("silo", "plots", "report", "quantised", "tasks", "web")

# Distributions whose import names aren't simply their own.
IMPORT_NAMES = {
    "grpcio-health-checking": {"grpc_health"},
    "grpcio": {"grpc"},
    "protobuf": {"google"},
    "pydantic": {"pydantic", "pydantic_core"},
    "pyyaml": {"yaml"},
}


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), named(path))


def imports(path: Path) -> Iterator[str]:
    """Every absolute module name that the file imports, wherever it does."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def third_party(path: Path) -> set[str]:
    tops = {name.partition(".")[0] for name in imports(path)}
    return tops - set(sys.stdlib_module_names) - {"fedit_secure"}


def dotted(node: ast.expr) -> str:
    """`a.b.c` for a chain of attributes that starts at a name, else the empty text."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return ""


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call):
            yield dotted(node.func), node


def docstring_lines(tree: ast.Module) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) and ast.get_docstring(node, clean=False):
            text = node.body[0]
            lines.update(range(text.lineno, (text.end_lineno or text.lineno) + 1))
    return lines


def code_lines(source: str) -> int:
    """Lines that carry code: blanks, comments and docstrings don't count."""
    skipped = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENCODING,
        tokenize.ENDMARKER,
    }
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - docstring_lines(ast.parse(source)))


def test_code_lines_counts_code_only() -> None:
    source = (
        '"""A module\nof two lines."""\n\n# a comment\ndef f(x):  # another\n'
        '    """What."""\n    return (\n        x\n    )\n'
    )
    assert code_lines(source) == 4


def test_imports_go_down_the_floors() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-logo", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_trusted_core_stays_within_its_budget() -> None:
    lines = {named(p): code_lines(p.read_text("utf-8")) for p in TRUSTED_CORE}
    assert sum(lines.values()) < TRUSTED_CORE_BUDGET, lines


def test_files_stay_small() -> None:
    long = {
        named(p): count
        for p in SOURCES
        if (count := len(p.read_text("utf-8").splitlines())) > FILE_BUDGET
    }
    assert not long, f"over {FILE_BUDGET} lines, so probably two files: {long}"


def test_file_names_say_something() -> None:
    vague = {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "misc.py"}
    found = [named(p) for p in [*SOURCES, *ROOT.glob("tests/**/*.py")]]
    assert not [name for name in found if Path(name).name in vague]


def test_trusted_core_imports_numpy_and_cryptography_only() -> None:
    for path in TRUSTED_CORE:
        assert third_party(path) <= {"numpy", "cryptography"}, named(path)
        ours = {n for n in imports(path) if n.startswith("fedit_secure")}
        assert all(
            n.startswith(("fedit_secure.secagg", "fedit_secure.errors")) for n in ours
        ), f"{named(path)} imports {ours}"


@pytest.mark.parametrize("path", PURE_CORE, ids=named)
def test_core_reads_no_clock_no_randomness_and_does_no_io(path: Path) -> None:
    impure = {
        "datetime",
        "io",
        "logging",
        "multiprocessing",
        "pathlib",
        "random",
        "secrets",
        "shutil",
        "socket",
        "sqlite3",
        "subprocess",
        "sys",
        "tempfile",
        "time",
        "uuid",
    }
    assert not {n.partition(".")[0] for n in imports(path)} & impure
    used = {dotted(n) for n in ast.walk(parse(path)) if isinstance(n, ast.expr)}
    assert not {name for name in used if re.match(r"(np|numpy)\.random\b", name)}
    # The number of cores decides how work is split, never what comes out.
    assert {name for name in used if name.startswith("os.")} <= {"os.cpu_count"}
    assert not {name for name in imports(path) if name.startswith("os.")}
    called = {name for name, _ in calls(path)}
    assert not called & {"open", "print", "input"}
    generators = {"generate", "generate_key", "urandom", "token_bytes"}
    assert not {n for n in called if n.rpartition(".")[2] in generators}


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_nothing_that_arrives_is_run_as_code(path: Path) -> None:
    unsafe = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
    found = set(imports(path))
    assert not {name.partition(".")[0] for name in found} & unsafe
    # Its queues and pipes pickle; shared memory is bytes.
    processes = {n for n in found if n.partition(".")[0] == "multiprocessing"}
    assert all(n.startswith("multiprocessing.shared_memory") for n in processes)
    for name, call in calls(path):
        assert name not in {"eval", "exec", "compile", "__import__"}, call.lineno
        assert name not in {"torch.load", "yaml.load", "yaml.unsafe_load"}, call.lineno
        for keyword in call.keywords:
            constant = getattr(keyword.value, "value", None)
            assert (keyword.arg, constant) not in {
                ("allow_pickle", True),
                ("shell", True),
                ("trust_remote_code", True),
                ("weights_only", False),
            }, f"{named(path)}:{call.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_only_cli_and_config_read_the_environment(path: Path) -> None:
    if path == PACKAGE / "config.py" or path.is_relative_to(PACKAGE / "cli"):
        return
    used = {dotted(n) for n in ast.walk(parse(path)) if isinstance(n, ast.expr)}
    names = used | set(imports(path))
    assert not names & {"os.environ", "os.environb", "os.getenv", "os.putenv"}


def declared(*extras: str) -> set[str]:
    """The distributions that pyproject.toml asks for, in lower case."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return {re.split(r"[^A-Za-z0-9_-]", line)[0].lower() for line in lines}


def importable(distribution: str) -> set[str]:
    return IMPORT_NAMES.get(distribution, {distribution.replace("-", "_")})


def test_every_imported_package_is_declared() -> None:
    known = set().union(*(importable(name) for name in declared(*USED)))
    for path in SOURCES:
        assert third_party(path) <= known, named(path)


def test_every_declared_package_is_imported() -> None:
    used: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        used |= third_party(path)
    assert not {name for name in declared(*USED) if not importable(name) & used}


def test_every_declared_package_is_pinned() -> None:
    pins = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {pin.partition("==")[0].lower() for pin in pins if "==" in pin}
    assert {
        name.replace("_", "-")
        for name in declared("silo", "dev", "plots", "report", "web", "deploy")
    } <= {name.replace("_", "-") for name in pinned}


def light_modules() -> list[str]:
    """The modules of the aggregator, the auditor, the daemon and the command line."""
    heavy = ("demo", "evaluation", "simulation", "tuning", "audit/canary")
    folders = [PACKAGE / name for name in heavy]
    files = [p for p in SOURCES if not any(p.is_relative_to(f) for f in folders)]
    names = [path.relative_to(ROOT).with_suffix("").parts for path in files]
    return [".".join(n[:-1] if n[-1] == "__init__" else n) for n in names]


def test_aggregator_daemon_and_command_line_start_without_torch() -> None:
    modules = light_modules()
    assert {"fedit_secure.aggregator", "fedit_secure.cli", "fedit_secure.silo"} <= set(
        modules
    )
    probe = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "print(*sorted({'accelerate', 'datasets', 'opacus', 'peft', 'torch',\n"
        "               'transformers'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "", "these were imported"


def tracked_text() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.suffix in {".safetensors"} or not path.is_file():
            continue
        yield name, path.read_text(encoding="utf-8")


def test_no_path_of_anyones_machine_is_in_the_repository() -> None:
    folders = "work|root|tmp|home|Users|mnt"
    machine = re.compile(rf"(?:^|[^\w./~<>{{}}-])/(?:{folders})/\w", re.MULTILINE)
    found = [
        f"{name}: {match.group().strip()}"
        for name, text in tracked_text()
        for match in machine.finditer(text)
    ]
    assert not found
