"""Encrypted keys behind the commands: every one that loads an identity opens them."""

from __future__ import annotations

import json
import re

import pytest

from fedit_secure.config import load_silo_config
from fedit_secure.federation.identity import load_identity

ME = "clinic-a"
SECRET = "correct horse battery staple"
OTHER = "another one that is long enough"


def passphrase(folder, content=SECRET, name="passphrase"):
    path = folder / name
    path.write_text(f"{content}\n")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("role", ["silo", "aggregator"])
def test_init_encrypts_and_names_the_file(fedit, tmp_path, role):
    path = passphrase(tmp_path)
    home = tmp_path / "home"
    given = ("--contact", "x", "--folder", home, "--passphrase-file", path)
    result = fedit(role, "init", "a", *given)
    assert result.status == 0, result.err
    assert SECRET not in result.out + result.err
    for key in ("identity.key", "issuer.key"):
        text = (home / "identity" / key).read_text()
        assert text.startswith("-----BEGIN ENCRYPTED")
    result = fedit(role, "status", home / f"{role}.yaml", "--format", "json")
    assert result.status == 0, result.err
    assert result.json["name"] == "a"


def test_init_with_a_bad_passphrase_file_writes_nothing(fedit, tmp_path, snapshot):
    path = passphrase(tmp_path)
    path.chmod(0o644)
    before = snapshot(tmp_path)
    given = ("--contact", "x", "--folder", tmp_path / "a", "--passphrase-file", path)
    result = fedit("silo", "init", "a", *given)
    assert result.status == 4
    assert "mode 0644" in result.err
    assert snapshot(tmp_path) == before


def commands(root):
    """Every command that loads an identity, of the silo and of the aggregator."""
    silo, hub = root / ME / "silo.yaml", root / "hub" / "aggregator.yaml"
    out = root / "out.zip"
    return (
        ("silo", "status", silo),
        ("silo", "serve", silo),
        ("silo", "encrypt", silo, "--remove"),
        ("charter", "approve", silo, "--yes"),
        ("budget", "show", silo),
        ("budget", "show", silo, "--plan", root / "charter.json"),
        ("budget", "history", silo),
        ("budget", "set", 9, silo, "--reason", "x", "--yes"),
        ("budget", "restore", "--charge-full-cap", "--reason", "x", "--config", silo,
         "--yes"),
        ("budget", "inherit", silo, "--reason", "x", "--yes"),
        ("audit", "export", silo, "-o", out),
        ("aggregator", "status", hub),
        ("aggregator", "serve", hub),
        ("aggregator", "encrypt", hub, "--remove"),
        ("audit", "export", hub, "-o", out),
    )  # fmt: skip


@pytest.fixture
def encrypted(fedit, federation):
    """The drafted federation, with encrypted keys that no configuration opens."""
    path = passphrase(federation)
    given = ("--passphrase-file", path)
    assert fedit("silo", "encrypt", federation / ME / "silo.yaml", *given).status == 0
    hub = federation / "hub"
    (hub / "charter.json").write_bytes((federation / "charter.json").read_bytes())
    assert fedit("aggregator", "encrypt", hub / "aggregator.yaml", *given).status == 0
    return federation


def name_file(root, path):
    for config in (root / ME / "silo.yaml", root / "hub" / "aggregator.yaml"):
        lines = config.read_text().splitlines()
        lines = [line for line in lines if not line.startswith("passphrase_file")]
        given = [] if path is None else [f"passphrase_file: {json.dumps(str(path))}"]
        config.write_text("\n".join([*lines, *given, ""]))


def test_without_the_passphrase_no_command_goes_on(fedit, encrypted, snapshot):
    before = snapshot(encrypted / ME / "identity")
    wrong = passphrase(encrypted, OTHER, "wrong")
    for path, says in ((None, "is encrypted: name the"), (wrong, "doesn't open")):
        name_file(encrypted, path)
        for command in commands(encrypted):
            result = fedit(*command, "--debug")
            assert (result.status, says in result.err) == (4, True), (
                command,
                result.err,
            )
            assert SECRET not in result.err + result.out
            assert OTHER not in result.err + result.out
    assert snapshot(encrypted / ME / "identity") == before


def test_with_it_every_command_gets_past_the_keys(fedit, encrypted, monkeypatch):
    def gets_past():
        for command in commands(encrypted):
            if command[1] in ("serve", "encrypt"):
                continue  # the daemons are served in a test of their own
            result = fedit(*command)
            assert not re.search("passphrase|encrypted", result.err), (
                command,
                result.err,
            )

    name_file(encrypted, encrypted / "passphrase")
    gets_past()
    name_file(encrypted, None)
    given = encrypted / "credentials"
    given.mkdir()
    passphrase(given, name="fedit-passphrase").chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(given))
    gets_past()


def test_encrypt_changes_and_removes(fedit, encrypted):
    config, folder = encrypted / ME / "silo.yaml", encrypted / ME / "identity"
    name_file(encrypted, encrypted / "passphrase")
    new = passphrase(encrypted, OTHER, "new")
    result = fedit("silo", "encrypt", config, "--passphrase-file", new)
    assert result.status == 0, result.err
    assert fedit("silo", "status", config).status == 4
    name_file(encrypted, new)
    assert fedit("silo", "status", config).status == 0
    assert fedit("silo", "encrypt", config, "--remove").status == 0
    assert load_identity(folder).name == ME
    result = fedit("silo", "status", config)
    assert "isn't encrypted: run fedit silo encrypt" in result.err


@pytest.mark.parametrize("options", [(), ("--remove", "--passphrase-file", "x")])
def test_encrypt_is_told_one_thing(fedit, federation, options):
    result = fedit("silo", "encrypt", federation / ME / "silo.yaml", *options)
    assert result.status == 4
    assert "either --passphrase-file or --remove" in result.err


def test_the_environment_may_name_the_file(encrypted, monkeypatch):
    path = encrypted / "passphrase"
    monkeypatch.setenv("FEDIT_PASSPHRASE_FILE", str(path))
    config = load_silo_config(encrypted / ME / "silo.yaml")
    assert config.passphrase_file == path
