"""Each documented exit status, from a real process that ran into it."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime

import pytest
from audit.tampered_papers import a_claim_removed_from_the_bundle

from fedit_secure.cli.main import app
from fedit_secure.federation.approval import approve
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.identity import create_identity, issue_leaf, load_identity

SILOS = ("clinic-a", "clinic-b", "clinic-c", "clinic-d")
RUN = "from fedit_secure.cli.main import run; run()"
SILO = "clinic-a/silo.yaml"


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@contextmanager
def listening(context):
    """Accepts on loopback, and speaks TLS."""
    kept = []

    def accept():
        while True:
            try:
                connection, _ = listener.accept()
                kept.append(context.wrap_socket(connection, server_side=True))
            except ssl.SSLError:
                continue
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def done(_):
    """0: all is well."""
    yield RUN, ("version",)


@contextmanager
def a_damaged_journal(root):
    """1: the run can't go on."""
    state = root / "clinic-a" / "state"
    state.mkdir()
    (state / "journal.sqlite").write_bytes(bytes(4096))
    yield RUN, ("silo", "status", SILO)


@contextmanager
def another_aggregator(root):
    """2: what answers isn't the aggregator that the charter pins."""
    approved(root)
    now = datetime.now(UTC)
    other = create_identity(root / "other", "hub", "aggregator", "x", now=now)
    key, chain = issue_leaf(other, (), now)
    (root / "leaf.pem").write_bytes(chain + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(root / "leaf.pem")
    with listening(context) as address:
        yield RUN, ("silo", "serve", SILO, "--aggregator", address)


@contextmanager
def an_aggregator_that_says_nothing(root):
    """3: no answer in time. Its queue is full, so the kernel lets nobody in."""
    short = "import fedit_secure.cli.diagnosis.network as n; n.SECONDS = 1.0; "
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
        ExitStack() as queue,
    ):
        with suppress(TimeoutError):
            while True:
                waits = socket.create_connection(full.getsockname(), 0.3)
                queue.enter_context(waits)
        address = f"127.0.0.1:{full.getsockname()[1]}"
        text = (root / SILO).read_text() + f"aggregator: {{address: '{address}'}}\n"
        (root / SILO).write_text(text)
        yield short + RUN, ("doctor", SILO, "--quick")


@contextmanager
def an_unknown_key(root):
    """4: the configuration is wrong."""
    edit(root / SILO, "policy: policy.yaml", "polcy: policy.yaml")
    yield RUN, ("silo", "status", SILO)


@contextmanager
def a_bug(_):
    """5: ours."""
    broken = "import importlib.metadata as m; m.version = None; "
    yield broken + RUN, ("version",)


@contextmanager
def a_policy_that_refuses(root):
    """6: more than the policy allows."""
    edit(root / "clinic-a" / "policy.yaml", "minimum_silos: 3", "minimum_silos: 4")
    yield RUN, ("charter", "approve", SILO, "--yes")


@contextmanager
def a_budget_that_is_too_small(root):
    """7: the budget has no room for the run."""
    edit(root / "clinic-a" / "policy.yaml", "epsilon: 8 ", "epsilon: 2 ")
    yield RUN, ("charter", "approve", SILO, "--yes")


@contextmanager
def silos_that_do_not_come(root):
    """8: too few silos before the charter's deadline."""
    charter = json.loads((root / "charter.json").read_text())
    charter["schedule"] |= {"tune_deadline_seconds": 0.5, "phase_deadline_seconds": 0.5}
    text = json.dumps(charter, indent=2, sort_keys=True) + "\n"
    (root / "charter.json").write_text(text)
    approved(root)
    yield RUN, ("aggregator", "serve", "hub/aggregator.yaml")


@contextmanager
def a_bundle_that_was_changed(root):
    """9: a claim fails."""
    for name, data in a_claim_removed_from_the_bundle().items():
        path = root / "bundle" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    yield RUN, ("audit", "verify", "bundle")


@contextmanager
def a_ledger_that_is_lost(root):
    """10: it was here once."""
    approved(root)
    (root / "clinic-a" / "state" / "journal.made").write_text("")
    yield RUN, ("silo", "serve", SILO)


def approved(root):
    """Every silo's approval, in the aggregator's folder; clinic-a remembers its own."""
    from fedit_secure.federation.approval import remember

    charter = Charter.load(root / "charter.json")
    (root / "hub" / "approvals").mkdir()
    for name in SILOS:
        identity = load_identity(root / name / "identity")
        signed = approve(charter, name, identity.signing)
        (root / "hub" / "approvals" / f"{name}.approval").write_bytes(signed.to_bytes())
    (root / "clinic-a" / "state").mkdir()
    remember(root / "clinic-a" / "state", charter)
    text = (root / "hub" / "aggregator.yaml").read_text()
    text = text.replace("charter: charter.json", "charter: ../charter.json")
    text = text.replace("initial_state: ", "initial_state: ../")
    (root / "hub" / "aggregator.yaml").write_text(
        text.replace("0.0.0.0:7443", "127.0.0.1:0")
    )


SCENARIOS = {
    0: (done, ""),
    1: (a_damaged_journal, "journal"),
    2: (another_aggregator, "isn't the aggregator that the charter pins"),
    3: (an_aggregator_that_says_nothing, ""),
    4: (an_unknown_key, "line 7: the key 'polcy' is unknown; did you mean 'policy'?"),
    5: (a_bug, "this is a bug of fedit"),
    6: (a_policy_that_refuses, "asks for at least 4"),
    7: (a_budget_that_is_too_small, "0 of the cap of 2 is spent"),
    8: (silos_that_do_not_come, "0 silos were ready in time, not 3"),
    9: (a_bundle_that_was_changed, "file-missing"),
    10: (a_ledger_that_is_lost, "journal.sqlite is missing"),
}


@pytest.mark.parametrize("status", SCENARIOS)
def test_a_process_ends_with_its_documented_status(federation, status):
    scenario, sentence = SCENARIOS[status]
    with scenario(federation) as (program, line):
        ended = subprocess.run(
            [sys.executable, "-c", program, *line],
            cwd=federation,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
    assert ended.returncode == status, ended.stderr
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
    if sentence:
        assert ended.stderr.splitlines()[-1].startswith("fedit: ")


def test_every_status_of_the_help_has_its_scenario():
    for status in SCENARIOS:
        assert f"{status} " in app.info.epilog
    assert f"{max(SCENARIOS) + 1} " not in app.info.epilog
