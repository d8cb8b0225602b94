"""`fedit audit verify` needs no network, no torch, and no system of a certain kind.

Its modules are read, with the imports inside their functions; and it is run where all
that is forbidden isn't there, in its children too.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from audit.honest_runs import a_second_charter_on_the_same_records
from audit.sealing import write_zip
from audit.tampering import TABLE

ROOT = Path(__file__).parents[2]
COMMAND = "fedit_secure.cli.audit_verify"

# Of the standard library, what Windows hasn't (docs.python.org: "Availability: Unix").
POSIX_ONLY = {
    "crypt", "curses", "fcntl", "grp", "nis", "ossaudiodev", "posix", "pty", "pwd",
    "readline", "resource", "spwd", "syslog", "termios", "tty",
}  # fmt: skip
NETWORK = {
    "aiohttp", "asyncio", "ftplib", "grpc", "grpc_health", "http", "httpx", "requests",
    "smtplib", "socket", "socketserver", "ssl", "urllib", "urllib3", "xmlrpc",
}  # fmt: skip
HEAVY = {"accelerate", "datasets", "opacus", "peft", "torch", "transformers"}
POSIX_OF_OS = {
    "O_CLOEXEC", "O_DIRECTORY", "O_DSYNC", "O_NOFOLLOW", "O_SYNC", "chown", "ctermid",
    "environb", "fchmod", "fchown", "fdatasync", "fork", "forkpty", "fwalk", "getegid",
    "geteuid", "getgid", "getgroups", "getpgid", "getuid", "killpg", "lchown", "lockf",
    "mkfifo", "nice", "openpty", "posix_fadvise", "posix_fallocate", "posix_spawn",
    "pread", "preadv", "pwrite", "pwritev", "register_at_fork", "sched_getaffinity",
    "sendfile", "setsid", "setuid", "statvfs", "sync", "uname", "wait", "wait4",
}  # fmt: skip


def source_of(module: str) -> Path | None:
    """The file of one of our modules or packages; None for a name inside one."""
    path = ROOT.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def imported(tree: ast.Module) -> Iterator[str]:
    """Every absolute name that is imported, wherever, but for type checkers only."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(inner for part in node.body for inner in ast.walk(part))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def path_of_verification() -> dict[str, ast.Module]:
    """Our modules that the command reaches by imports, those in functions included."""
    reached: dict[str, ast.Module] = {}
    queue = [COMMAND, "fedit_secure.audit.beside"]  # the latter is run by its name
    while queue:
        module = queue.pop()
        file = source_of(module)
        if file is None:
            module = module.rpartition(".")[0]  # a name that is imported from it
            file = source_of(module)
        if file is None or module in reached:
            continue
        reached[module] = ast.parse(file.read_text(encoding="utf-8"))
        queue += [n for n in imported(reached[module]) if n.startswith("fedit_secure")]
        queue += [module.rpartition(".")[0]] if "." in module else []
    return reached


PATH = path_of_verification()


def test_the_path_is_the_verifiers() -> None:
    """So that none of what follows is true of nothing."""
    assert {
        "fedit_secure.audit.verify",
        "fedit_secure.audit.rounds",
        "fedit_secure.cli.output",
        "fedit_secure.privacy.accountant",
        "fedit_secure.secagg.transcript",
        "fedit_secure.wire.codec",
    } <= PATH.keys()
    floors = {name.split(".")[1] for name in PATH if "." in name}
    assert not floors & {
        "aggregator",
        "demo",
        "driver",
        "evaluation",
        "silo",
        "storage",
    }
    assert not floors & {"simulation", "tuning"}


@pytest.mark.parametrize("module", sorted(PATH))
def test_no_module_imports_what_an_auditor_may_lack(module: str) -> None:
    found = {name.partition(".")[0] for name in imported(PATH[module])}
    assert not found & (POSIX_ONLY | NETWORK | HEAVY | {"multiprocessing", "mmap"})


@pytest.mark.parametrize("module", sorted(PATH))
def test_no_module_asks_of_the_system_what_only_some_have(module: str) -> None:
    used = {
        node.attr
        for node in ast.walk(PATH[module])
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os"
    }
    assert not used & POSIX_OF_OS
    names = {n.rpartition(".")[2] for n in imported(PATH[module]) if n[:3] == "os."}
    assert not names & POSIX_OF_OS


# ------------------------------------------------------------------------------ at work

BARRED = '''
"""What is imported first in every process of this test."""
import importlib.abc
import os
import sys

BARRED = {barred!r}


class Bar(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BARRED:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


def refuse(event, arguments):
    if event.startswith("socket."):
        raise SystemExit(f"{{event}} {{arguments}}")
    if event == "open" and isinstance(arguments[0], str):
        path, mode, flags = arguments
        writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
        if path != os.devnull and (flags & writes or os.path.isdir(path)):
            raise SystemExit(f"it opens {{path}} with {{mode}} {{flags}}")
    if event == "subprocess.Popen" and arguments[0] != sys.executable:
        raise SystemExit(f"it starts {{arguments}}")


for name in BARRED & sys.modules.keys():
    del sys.modules[name]
sys.meta_path.insert(0, Bar())
sys.addaudithook(refuse)
'''
RUN = """
import sys
from fedit_secure.audit import verify
from fedit_secure.cli.main import run
verify._ALONE = 0  # with children, however small it is
sys.argv = ["fedit", "audit", "verify", *sys.argv[1:]]
try:
    run()
finally:
    loaded = {name.partition(".")[0] for name in sys.modules}
    sys.stderr.write("LOADED " + " ".join(sorted(loaded)))
"""


def verified(bundle: Path, folder: Path, *options: str) -> tuple[int, str, str]:
    """Status, output and errors of the command where nothing barred can be had."""
    # The socket module itself is imported by libraries that then open none.
    barred = POSIX_ONLY - {"posix"} | HEAVY | {"grpc", "grpc_health", "ssl", "requests"}
    (folder / "sitecustomize.py").write_text(BARRED.format(barred=barred))
    clean = {
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(bundle), *options],
        cwd=folder,
        env=os.environ | clean,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_it_runs_where_nothing_else_is(jobs: str, tmp_path: Path) -> None:
    files = a_second_charter_on_the_same_records().sealed()
    bundle = write_zip(files, tmp_path / "run.zip")
    options = ("--jobs", jobs, "--format", "json")
    status, out, errors = verified(bundle, tmp_path, *options)
    assert status == 0, errors
    assert json.loads(out)["passed"]
    loaded = set(errors.rpartition("LOADED ")[2].split())
    assert "fedit_secure" in loaded
    assert not loaded & (HEAVY | {"grpc"} | POSIX_ONLY - {"posix"})


def test_it_finds_faults_there_too(tmp_path: Path) -> None:
    files = TABLE["a_confirmation_by_the_aggregator"].make()
    bundle = write_zip(files, tmp_path / "run.zip")
    status, out, errors = verified(bundle, tmp_path, "--jobs", "2")
    assert status == 9, errors
    assert "confirmation-unsigned" in out
    assert "confirmation-unsigned (round 2)" in errors


@pytest.mark.parametrize(
    "deed",
    [
        "import fcntl",
        "import torch",
        "import socket; socket.socket()",
        "import socket; socket.getaddrinfo('localhost', 80)",
        "open('left-behind', 'w')",
        "import os; os.open('.', os.O_RDONLY)",
        "import subprocess; subprocess.run(['true'])",
    ],
)
def test_what_is_barred_would_be_noticed(deed: str, tmp_path: Path) -> None:
    verified(tmp_path / "none.zip", tmp_path)  # writes the bar
    done = subprocess.run(
        [sys.executable, "-c", deed],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0
