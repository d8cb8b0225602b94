"""`fedit doctor` where the keys lie encrypted: opened as the daemon opens them, or told."""

from __future__ import annotations

import json
from shutil import copy

import pytest

SECRET = "correct horse battery staple"


@pytest.fixture(params=["silo", "aggregator"])
def party(request, fedit, federation):
    """The configuration of one whose keys are encrypted, and which doesn't say how."""
    path = federation / "passphrase"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    folder = federation / ("clinic-a" if request.param == "silo" else "hub")
    config = folder / f"{request.param}.yaml"
    given = ("--passphrase-file", path)
    copy(federation / "charter.json", folder.parent / "hub" / "charter.json")
    assert fedit(request.param, "encrypt", config, *given).status == 0
    return config


@pytest.fixture
def look(fedit, party):
    def run(file=None):
        text = party.read_text().partition("\npassphrase_file")[0]
        named = "" if file is None else f"\npassphrase_file: {json.dumps(str(file))}\n"
        party.write_text(text + named)
        result = fedit("doctor", party, "--offline", "--quick", "--format", "json")
        assert SECRET not in result.out + result.err
        return result.status, {row["check"]: row for row in result.json["findings"]}

    return run


def passphrase(party, content=SECRET, mode=0o600):
    path = party.parent / "given"
    path.write_text(content + "\n")
    path.chmod(mode)
    return path


def test_opened_by_a_file_or_by_a_credential(look, party, monkeypatch):
    _, rows = look(passphrase(party))
    assert rows["identity"]["result"] == "PASS"
    assert rows["identity"]["found"].endswith("the keys are encrypted")
    assert rows["charter"]["result"] == "PASS"
    folder = party.parent / "credentials"
    folder.mkdir()
    (folder / "fedit-passphrase").write_text(SECRET)
    (folder / "fedit-passphrase").chmod(0o440)  # systemd's own: it isn't the account's
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    _, rows = look()
    assert rows["identity"]["found"].endswith("the keys are encrypted")


@pytest.mark.parametrize(
    ("content", "mode", "sentence"),
    [
        (None, 0, "as 'passphrase_file', or hand it over as the systemd credential"),
        ("a horse of another colour", 0o600, "the passphrase doesn't open"),
        (SECRET, 0o644, "has mode 0644, so others may read it; run chmod 600 on it"),
        ("", 0o600, "doesn't hold one line with the passphrase"),
    ],
)
def test_not_opened_is_one_failure_that_says_why(look, party, content, mode, sentence):
    status, rows = look(None if content is None else passphrase(party, content, mode))
    assert status == 4
    assert [name for name, row in rows.items() if row["result"] == "FAIL"] == [
        "identity"
    ]
    assert sentence in rows["identity"]["found"]
    assert rows["identity"]["fix"].startswith("Do what the sentence says")
    assert rows["charter"]["result"] == "SKIP"
    assert "it needs" in rows["charter"]["found"]
