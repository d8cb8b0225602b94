"""`fedit doctor` for an aggregator: each check when all is well, and when it isn't."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from shutil import copytree

import pytest

from fedit_secure.cli.diagnosis.lists import AGGREGATOR
from fedit_secure.federation.approval import approve
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.identity import load_identity

SILOS = ("clinic-a", "clinic-b", "clinic-c", "clinic-d")


@pytest.fixture(scope="module")
def approved(drafted, tmp_path_factory):
    """The drafted federation with every approval in the hub's folder."""
    root = tmp_path_factory.mktemp("approved") / "federation"
    copytree(drafted, root)
    charter = Charter.load(root / "charter.json")
    approvals = root / "hub" / "approvals"
    approvals.mkdir()
    for name in SILOS:
        identity = load_identity(root / name / "identity")
        signed = approve(charter, name, identity.signing)
        (approvals / f"{name}.approval").write_bytes(signed.to_bytes())
    hub = root / "hub" / "aggregator.yaml"
    text = hub.read_text().replace("charter: charter.json", "charter: ../charter.json")
    text = text.replace("initial_state: ", "initial_state: ../")
    hub.write_text(text.replace("0.0.0.0:7443", "127.0.0.1:0"))
    return root


@pytest.fixture
def hub(approved, tmp_path):
    copytree(approved, tmp_path / "federation")
    return tmp_path / "federation" / "hub"


@pytest.fixture
def look(fedit, hub):
    def run(*options):
        command = ("doctor", hub / "aggregator.yaml", *options, "--format", "json")
        result = fedit(*command)
        assert result.out, result.err
        run.status = result.status
        return {row["check"]: row for row in result.json["findings"]}

    return run


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_all_is_well(look, hub, snapshot):
    before = snapshot(hub.parent)
    rows = look()
    assert {name: row["result"] for name, row in rows.items()} == {
        check.name: "PASS" for check in AGGREGATOR
    }
    assert look.status == 0
    assert rows["approvals"]["found"] == "all 4 silos have approved the charter"
    assert rows["run"]["found"] == "not begun yet"
    assert snapshot(hub.parent) == before


def test_before_there_is_a_charter(look, hub):
    (hub.parent / "charter.json").unlink()
    rows = look()
    assert look.status == 0
    assert {name for name, row in rows.items() if row["result"] == "SKIP"} == {
        "charter", "approvals", "initial-state", "run",
    }  # fmt: skip


def another_card(hub):
    charter = hub.parent / "charter.json"
    identity = json.loads(charter.read_text())["aggregator"]["identity"]
    edit(charter, identity, identity[::-1])


def no_address(hub):
    edit(hub / "aggregator.yaml", "127.0.0.1:0", "198.51.100.7:7443")


def no_port(hub):
    edit(hub / "aggregator.yaml", "127.0.0.1:0", "127.0.0.1:99999")


def another_state(hub):
    path = hub.parent / "initial-state.bin"
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)


def no_state(hub):
    (hub.parent / "initial-state.bin").unlink()


def a_forged_approval(hub):
    path = hub / "approvals" / "clinic-b.approval"
    signature = json.loads(path.read_text())["signature"]
    edit(path, signature, signature[::-1])


def a_damaged_run(hub):
    charter = Charter.load(hub.parent / "charter.json")
    folder = hub / "state" / charter.digest().hex()[:16]
    folder.mkdir(parents=True)
    (folder / "progress.json").write_text('{"round": 1')


def a_silos_keys(hub):
    edit(
        hub / "aggregator.yaml", "identity: identity", "identity: ../clinic-a/identity"
    )


BROKEN = {
    another_card: ("charter", 6, "pins another aggregator"),
    no_address: ("listen", 4, "can't be listened on"),
    no_port: ("listen", 4, "ends in no port"),
    another_state: ("initial-state", 4, "isn't the state that the charter names"),
    no_state: ("initial-state", 4, "can't be read"),
    a_forged_approval: ("approvals", 6, "isn't signed by its identity"),
    a_damaged_run: ("run", 1, "progress.json is damaged"),
    a_silos_keys: ("identity", 4, "is that of a silo"),
}


@pytest.mark.parametrize("breaks", BROKEN, ids=lambda breaks: breaks.__name__)
def test_what_is_broken_fails_alone(look, hub, breaks):
    check, status, sentence = BROKEN[breaks]
    breaks(hub)
    rows = look()
    failed = {name for name, row in rows.items() if row["result"] == "FAIL"}
    assert failed == {check}
    assert sentence in rows[check]["found"]
    assert rows[check]["fix"].endswith(".")
    assert look.status == status


def test_approvals_that_are_still_missing(look, hub):
    (hub / "approvals" / "clinic-c.approval").unlink()
    rows = look()
    assert (rows["approvals"]["result"], look.status) == ("WARN", 0)
    assert rows["approvals"]["found"] == "not yet there: those of clinic-c"


def test_an_address_in_use(look, hub):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        edit(hub / "aggregator.yaml", "127.0.0.1:0", address)
        rows = look()
    assert (rows["listen"]["result"], look.status) == ("WARN", 0)
    assert rows["listen"]["found"] == f"{address} is in use"


def test_it_needs_nothing_of_the_extras(hub):
    """Neither torch nor any other package that only silos install."""
    extras = ("torch", "transformers", "peft", "opacus", "datasets", "pyarrow", "psutil",
              "tokenizers", "huggingface_hub", "rouge_score", "matplotlib")  # fmt: skip
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({extras!r}))\n"
        "from fedit_secure.cli.main import main\n"
        f"sys.exit(main(['doctor', {str(hub / 'aggregator.yaml')!r}, '--format', 'json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fail"] == 0
