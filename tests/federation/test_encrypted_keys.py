"""Keys at rest: under a passphrase, without one, and as earlier versions wrote them."""

from __future__ import annotations

import pickle
import stat
import traceback
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fedit_secure.errors import ConfigError, StorageError
from fedit_secure.federation import key_files
from fedit_secure.federation.identity import (
    change_passphrase,
    create_identity,
    issue_leaf,
    load_identity,
)
from fedit_secure.federation.passphrase import (
    Passphrase,
    read_new_passphrase,
    read_passphrase,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECRET = b"correct horse battery staple"
OTHER = b"another one that is long enough"
KEYS = ("identity.key", "issuer.key")


def make(folder, content=None):
    passphrase = None if content is None else Passphrase(content)
    return create_identity(folder, "a", "silo", "x", now=NOW, passphrase=passphrase)


def test_both_keys_are_encrypted_and_open_with_the_passphrase_alone(tmp_path):
    made = make(tmp_path / "a", SECRET)
    for name in KEYS:
        path = tmp_path / "a" / name
        assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(ValueError, match="password"):
            load_pem_private_key(path.read_bytes(), OTHER)
    again = load_identity(tmp_path / "a", Passphrase(SECRET))
    assert again.signing.public == made.signing.public
    assert again.card == made.card
    issue_leaf(again, (), NOW)


def test_a_wrong_or_a_missing_passphrase_is_one_sentence_without_it(tmp_path):
    make(tmp_path / "a", SECRET)
    with pytest.raises(
        ConfigError, match=r"'passphrase_file'.*fedit-passphrase"
    ) as none:
        load_identity(tmp_path / "a")
    with pytest.raises(ConfigError, match="the passphrase doesn't open") as wrong:
        load_identity(tmp_path / "a", Passphrase(OTHER))
    for caught in (none, wrong):
        told = "".join(traceback.format_exception(caught.value))
        assert SECRET.decode() not in told
        assert OTHER.decode() not in told
        assert "PRIVATE KEY" not in told


def test_a_passphrase_never_shows(tmp_path):
    passphrase = Passphrase(SECRET)
    for text in (repr(passphrase), str(passphrase), f"{[passphrase]}"):
        assert SECRET.decode() not in text
    with pytest.raises(TypeError):
        pickle.dumps(passphrase)


def test_a_passphrase_for_keys_that_are_not_encrypted_is_refused(tmp_path):
    make(tmp_path / "a")
    with pytest.raises(ConfigError, match="isn't encrypted: run fedit silo encrypt"):
        load_identity(tmp_path / "a", Passphrase(SECRET))


def test_the_key_files_of_earlier_versions_still_load(tmp_path):
    made = make(tmp_path / "a")
    path = tmp_path / "a" / "identity.key"
    path.write_text(f"{made.signing.seed().hex()}\n")
    assert load_identity(tmp_path / "a").signing.public == made.signing.public
    with pytest.raises(ConfigError, match="isn't encrypted"):
        load_identity(tmp_path / "a", Passphrase(SECRET))
    change_passphrase(tmp_path / "a", None, Passphrase(SECRET))
    assert path.read_bytes().startswith(b"-----BEGIN ENCRYPTED")
    again = load_identity(tmp_path / "a", Passphrase(SECRET))
    assert again.signing.public == made.signing.public


def test_keys_in_each_others_place_are_refused(tmp_path):
    make(tmp_path / "a", SECRET)
    one, two = (tmp_path / "a" / name for name in KEYS)
    mine, other = one.read_bytes(), two.read_bytes()
    one.write_bytes(other)
    with pytest.raises(ConfigError, match="isn't an identity key"):
        load_identity(tmp_path / "a", Passphrase(SECRET))
    one.write_bytes(mine)
    two.write_bytes(mine)
    with pytest.raises(ConfigError, match="isn't an issuer's key"):
        load_identity(tmp_path / "a", Passphrase(SECRET))


@pytest.mark.parametrize(
    ("old", "new"), [(None, SECRET), (SECRET, OTHER), (SECRET, None)]
)
@pytest.mark.parametrize("dies", [False, True])
def test_a_passphrase_is_added_changed_and_removed(
    tmp_path, monkeypatch, old, new, dies
):
    made = make(tmp_path / "a", old)
    old, new = (None if each is None else Passphrase(each) for each in (old, new))
    if dies:  # between the two files
        written = []

        def dying(path, data, **options):
            written.append(path)
            if len(written) == 2:
                raise StorageError("the disk is full")
            original(path, data, **options)

        original = key_files.write_durably
        with monkeypatch.context() as patch:
            patch.setattr(key_files, "write_durably", dying)
            with pytest.raises(StorageError):
                change_passphrase(tmp_path / "a", old, new)
    change_passphrase(tmp_path / "a", old, new)
    assert load_identity(tmp_path / "a", new).card == made.card
    with pytest.raises(ConfigError):
        load_identity(tmp_path / "a", old)


# ------------------------------------------------------------------------ its own file


def written(path, content, mode=0o600):
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_first_line_is_the_passphrase(tmp_path, end):
    path = written(tmp_path / "p", SECRET + end)
    assert read_passphrase(path).content == SECRET


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_passphrase_file_that_others_can_read_is_refused(tmp_path, mode):
    path = written(tmp_path / "p", SECRET, mode)
    with pytest.raises(ConfigError, match=rf"mode 0{mode:o}.*chmod 600"):
        read_passphrase(path)
    # systemd's own file: what its access list grants shows as the group's right.
    assert read_passphrase(path, own=False).content == SECRET


@pytest.mark.parametrize("content", [b"", b"\n", SECRET + b"\nmore", b"x" * 2000])
def test_what_is_no_passphrase_file(tmp_path, content):
    path = written(tmp_path / "p", content)
    with pytest.raises(ConfigError, match=r"the passphrase file .*p ") as caught:
        read_passphrase(path)
    assert SECRET.decode() not in str(caught.value)
    with pytest.raises(ConfigError, match="can't be read"):
        read_passphrase(tmp_path / "nowhere")


def test_a_new_passphrase_is_long(tmp_path):
    path = written(tmp_path / "p", b"fifteen letters\n")
    with pytest.raises(ConfigError, match="fewer than 16 characters") as caught:
        read_new_passphrase(path)
    assert "fifteen letters" not in str(caught.value)
    assert read_passphrase(path).content == b"fifteen letters"
