"""Delete every check of the trusted core, one at a time: some attack test must fail.

    make mutants [ONLY="checks.py keys.py"]

A mutant is a copy of the package in which one check of `secagg/` is gone (deletions.py says
what a check is). First the core's tests run once without a mutant, to see which test
executes which line and how long it takes. Then every mutant meets the tests that execute
its lines, the quickest first, until one fails: no other test can notice it. A mutant of
the protocol's own files meets the attacks before the other tests. Each run is a fork of
this process, which has imported what tests import, but nothing of the package.

Mutants that survive must stand in EQUIVALENT with the reason why no test can tell, those
of the protocol that only other tests kill in UNATTACKED, and nothing else may stand there;
otherwise the status is 1.
"""

from __future__ import annotations

import compileall
import importlib
import importlib.util
import multiprocessing
import os
import py_compile
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import coverage
import hypothesis
import pytest
from deletions import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[1]
CORE = Path("fedit_secure/secagg")
PROTOCOL = ("protocol.py", "silo_steps.py", "aggregator_steps.py", "checks.py")
ATTACKS = "tests/attacks"
TESTS = (ATTACKS, "tests/secagg", "tests/properties/test_release.py")
LEFT_OUT = {
    "tests/attacks/test_leaks.py": "statistics: no check is theirs",
    "tests/attacks/test_over_grpc.py": "a busy machine might fail it: a network",
    "tests/attacks/test_history_attacks.py": "the same: daemons, which have patience",
}
IMPORTED = (
    "anyio cryptography.x509 grpc grpc.aio numpy.testing pydantic pytest_asyncio "
    "pytest_cov rich scipy.stats safetensors.numpy tenacity typer yaml"
)
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "--timeout=0")
AT_ONCE = (25, 100)  # so many tests in a mutant's first runs; then all that are left
CPU_SECONDS = 20  # of a test, or of collecting them: what takes more is a failure
LIMIT_SECONDS = 1800  # of a run, for what hangs without computing
say = partial(print, flush=True)

EQUIVALENT = {
    "keystream.py: : os.cpu_count() of os.cpu_count() or 1": "how many cores, not what",
    "keystream.py: : 1 of os.cpu_count() or 1": "where the system can't count its cores",
}
"""Mutant (file: function: what is gone) -> why no test can tell."""

UNATTACKED = {
    "protocol.py: run_release: if not mail: ...": "a loop's end: it has no adversary"
}
"""Mutant of the protocol's own files -> why another test than an attack must tell."""


class Watch:
    """Runs chosen tests in this order; notes what each took, and the first to fail."""

    def __init__(self, order: Iterable[str] = ()) -> None:
        self.rank = {test: place for place, test in enumerate(order)}
        self.seconds: dict[str, float] = {}
        self.failed = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self.rank:
            chosen = [item for item in items if item.nodeid in self.rank]
            items[:] = sorted(chosen, key=lambda item: self.rank[item.nodeid])

    def pytest_runtest_setup(self) -> None:
        _start_clock()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        before = self.seconds.get(report.nodeid, 0.0)
        self.seconds[report.nodeid] = before + report.duration
        if report.failed:
            self.failed = self.failed or report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed = self.failed or report.nodeid


def run(package: Path, watch: Watch, *arguments: str) -> tuple[Watch, int]:
    """pytest on the package in this folder; only in a fork, as it imports the package."""
    os.chdir(ROOT)
    log = os.open(package / "log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    os.environ["COVERAGE_FILE"] = str(package / "coverage")
    sys.path.insert(0, str(package))
    found = importlib.util.find_spec("fedit_secure")
    assert found is not None
    assert Path(found.origin or "").is_relative_to(package)
    # Deterministic, and never failing because this machine is busy.
    signal.signal(signal.SIGPROF, _took_too_long)
    _start_clock()
    quick = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    slow = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile(
        "mutants",
        database=None,
        deadline=None,
        phases=quick,
        suppress_health_check=slow,
    )
    hypothesis.settings.load_profile("mutants")
    status = pytest.main([*OPTIONS, *arguments], plugins=[watch])
    sys.stdout.flush()
    return watch, int(status)


def _start_clock() -> None:
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS, CPU_SECONDS)


def _took_too_long(*_: object) -> None:
    raise TimeoutError(f"a test took over {CPU_SECONDS} s of computing")


def forked(work: Callable[..., Any], *arguments: Any) -> Any:
    """What the work returns in a fork of this process; None if it takes too long, or dies."""
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=_answer, args=(there, work, *arguments)
    )
    process.start()
    there.close()
    try:
        return here.recv() if here.poll(LIMIT_SECONDS) else None
    except EOFError:
        return None
    finally:
        process.kill()
        process.join()


def _answer(there: Connection, work: Callable[..., Any], *arguments: Any) -> None:
    there.send(work(*arguments))
    os._exit(0)


class Trial:
    """A copy of the package, and what its tests do there without a mutant."""

    def __init__(self, package: Path) -> None:
        self.package = package
        shutil.copytree(
            ROOT / "fedit_secure",
            package / "fedit_secure",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        # Tests are compiled once, and bytecode of the package is held against its source's
        # hash: a mutant's is never taken for another's, however quickly they follow.
        sys.dont_write_bytecode, sys.pycache_prefix = False, str(package / "bytecode")
        by_hash = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(
            package / "fedit_secure", quiet=1, invalidation_mode=by_hash
        )
        ignored = [f"--ignore={path}" for path in LEFT_OUT]
        measured = [f"--cov={package / CORE}", "--cov-context=test", "--cov-report="]
        done = forked(run, package, Watch(), *TESTS, *ignored, *measured)
        if done is None or done[1] != 0:
            raise SystemExit(self._log() + "\nthe tests fail without a mutant")
        self.seconds: dict[str, float] = done[0].seconds
        self.data = coverage.CoverageData(str(package / "coverage"))
        self.data.read()
        self.killers: defaultdict[str, set[str]] = defaultdict(set)  # by function

    def _log(self) -> str:
        return (self.package / "log").read_text(encoding="utf-8")

    def tests_of(self, mutant: Mutant) -> list[str]:
        """The tests that execute one of its lines, in the order in which to try them."""
        lines = self.data.contexts_by_lineno(str(self.package / mutant.path))
        span = range(mutant.first, mutant.last + 1)
        found = {context for line in span for context in lines.get(line, ())}
        tests = {context.rpartition("|")[0] for context in found}
        # A fixture may be shared by its file, and is measured with the first test only.
        shared = {_file(x) for x in found if x.endswith("|setup")}
        chosen = [t for t in self.seconds if t in tests or _file(t) in shared]
        if found and not chosen:
            chosen = [*self.seconds]  # executed on import
        chosen.sort(key=self.seconds.__getitem__)
        cases: Counter[str] = Counter()
        place = {}
        for test in chosen:
            later = mutant.path.name in PROTOCOL and not is_attack(test)
            new = test not in self.killers[mutant.function]
            function, _, _ = test.partition("[")
            cases[function] += 1  # the cases of one test are much the same
            place[test] = (later, new, self.seconds[test] * cases[function])
        return sorted(chosen, key=place.__getitem__)

    def killer(self, mutant: Mutant) -> str:
        """The first test that fails against this mutant; empty if none does."""
        target = self.package / mutant.path
        target.write_text(mutant.source, encoding="utf-8")
        try:
            for tests in _batches(self.tests_of(mutant)):
                files = sorted({_file(test) for test in tests})
                done = forked(run, self.package, Watch(tests), *files)
                if done is None:
                    say(f"{mutant.name}: hangs, or ends the process")
                    return tests[0]  # or one of those after it
                watch, status = done
                if status in (3, 5):  # pytest itself failed, or found no test
                    raise SystemExit(f"{self._log()}\n{mutant.name}: pytest: {status}")
                if status:
                    self.killers[mutant.function].add(watch.failed)
                    return watch.failed or files[0]
        finally:
            shutil.copyfile(ROOT / mutant.path, target)
        return ""


def _batches(tests: list[str]) -> Iterator[list[str]]:
    """A few first: most mutants die of those."""
    for size in (*AT_ONCE, len(tests)):
        if tests:
            yield tests[:size]
        tests = tests[size:]


def is_attack(test: str) -> bool:
    """Whether a test mounts an attack."""
    return test.startswith(ATTACKS)


def _file(test: str) -> str:
    return test.partition("::")[0]


def report(killers: Mapping[Mutant, str], only: list[str]) -> int:
    """Print which mutants no test notices, or no attack; how many lack a reason."""
    alive = {mutant.name for mutant, test in killers.items() if not test}
    unattacked = {
        mutant.name
        for mutant, test in killers.items()
        if test and mutant.path.name in PROTOCOL and not is_attack(test)
    }
    wrong = 0
    for what, found, reasons in (
        ("no test notices", alive, EQUIVALENT),
        ("no attack notices", unattacked, UNATTACKED),
    ):
        expected = {x for x in reasons if not only or x.partition(":")[0] in only}
        for name in sorted(found | expected):
            right = name in found and name in expected
            wrong += not right
            reason = reasons.get(name, "NOT JUSTIFIED")
            print(f"{what}: {name}")
            print(f"    {reason if name in found else 'JUSTIFIED, BUT NOT SO'}")
    killed = len(killers) - len(alive)
    print(f"{len(killers)} mutants, {killed} killed; {wrong} not as they should be")
    return wrong


def main(only: list[str]) -> int:
    """Try all mutants of the core, or of these of its files."""
    for module in IMPORTED.split():
        importlib.import_module(module)
    files, todo = sorted((ROOT / CORE).glob("*.py")), list[Mutant]()
    if unknown := {*only} - {path.name for path in files}:
        raise SystemExit(f"not in {CORE}: {', '.join(unknown)}")
    for path in files:
        if not only or path.name in only:
            text = path.read_text(encoding="utf-8")
            todo += mutants_of(path.relative_to(ROOT), text)
    began, killers = time.monotonic(), {}
    with tempfile.TemporaryDirectory(prefix="fedit-mutants-") as folder:
        trial = Trial(Path(folder).resolve())
        say(f"{len(trial.seconds)} tests, {time.monotonic() - began:.0f} s")
        for number, mutant in enumerate(todo, 1):
            killers[mutant] = trial.killer(mutant)
            if not killers[mutant]:
                say(f"{mutant.path}:{mutant.first}: survives: {mutant.gone}")
            elif number % 20 == 0:
                say(f"{number} of {len(todo)}")
    wrong = report(killers, only)
    say(f"{(time.monotonic() - began) / 60:.0f} min")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
