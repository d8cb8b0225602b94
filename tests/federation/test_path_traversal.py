"""Names become parts of paths: what leads anywhere else is no name, wherever it stands."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from fedit_secure.audit.bundle import Bundle, Maker, Manifest, SeenHead
from fedit_secure.cli.main import main
from fedit_secure.config import SiloConfig
from fedit_secure.errors import ConfigError
from fedit_secure.federation.approval import Approval
from fedit_secure.federation.card import Card
from fedit_secure.federation.charter import AggregatorRow, Charter, SiloRow, TemplateRow
from fedit_secure.federation.claim import Claim
from fedit_secure.federation.heads import SignedHead
from fedit_secure.federation.local_plan import Adapter
from fedit_secure.storage.adapter_store import StateStore
from fedit_secure.tuning.examples import load_template

EVIL = (
    "..",
    "../north",
    "../../etc/cron.d/north",
    "/etc/passwd",
    "north/../../south",
    "north/south",
    "north\\south",
    "north\0.jsonl",
    "north\n",
    ".north",
    "north.",
    "-north",
    "NORTH",
    "n\u00f6rth",
    "%2e%2e%2fnorth",
    "~",
    "",
    "n" * 64,
)
# Whatever document a party sends: the fields that become file or folder names, or part of one.
NAMES = (
    (Card, "name"),
    (Charter, "federation"),
    (Charter, "run"),
    (SiloRow, "name"),
    (AggregatorRow, "name"),
    (Approval, "name"),
    (Claim, "silo"),
    (SignedHead, "silo"),
    (SeenHead, "silo"),
    (Maker, "name"),
    (SiloConfig, "name"),
)
DIGESTS = ((Approval, "digest"), (Adapter, "initial_digest"), (Manifest, "charter"))


def misshapen(model: type[BaseModel], field: str, value: str) -> bool:
    """Whether one field alone is refused for its pattern, as in the whole document."""
    try:
        model.__pydantic_validator__.validate_assignment(
            model.model_construct(), field, value, strict=True
        )
    except ValidationError as error:
        (only,) = error.errors()
        assert only["loc"] == (field,)
        return only["type"] == "string_pattern_mismatch"
    except AttributeError:  # the field is well, and the document lacks all others
        return False
    return False


@pytest.mark.parametrize(("model", "field"), NAMES)
def test_path_traversal_in_a_name(model: type[BaseModel], field: str) -> None:
    assert not misshapen(model, field, "north-7")
    for evil in EVIL:
        assert misshapen(model, field, evil), evil


@pytest.mark.parametrize(("model", "field"), DIGESTS)
def test_path_traversal_in_a_digest(model: type[BaseModel], field: str) -> None:
    assert not misshapen(model, field, "0a" * 32)
    for evil in (*EVIL, "../" + "a" * 61, "A" * 64, "a" * 63, "a" * 64 + "\n"):
        assert misshapen(model, field, evil), evil


def test_path_traversal_in_a_templates_name() -> None:
    row = TemplateRow(name="../../secrets", digest="00" * 32)
    with pytest.raises(ConfigError, match="unknown template"):
        load_template(row.name)


@pytest.mark.parametrize("evil", [name for name in EVIL if "\0" not in name and name])
def test_path_traversal_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evil: str
) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    for role in ("silo", "aggregator"):
        assert main([role, "init", "--contact", "x", "--", evil]) == 4
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "a", inner]


def test_path_traversal_in_a_bundle(tmp_path: Path) -> None:
    """Of an archive's names only those are read that a bundle has, and none is ever a path
    on the disk: not even that of a file beside it."""
    (tmp_path / "secret.jsonl").write_bytes(b"secret")
    (tmp_path / "bundle").mkdir()
    path = tmp_path / "bundle" / "evil.zip"
    names = (
        "../secret.jsonl",
        "ledgers/../../secret.jsonl",
        "/etc/passwd",
        "ledgers/..",
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"bait")
    with Bundle(path) as bundle:
        for name in names:
            with pytest.raises(ConfigError, match="strange name"):
                bundle.read(name)
        assert bundle.read("ledgers/north.jsonl") is None
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "bundle",
        "evil.zip",
        "secret.jsonl",
    ]


def test_path_traversal_in_an_address_on_the_wire(tmp_path: Path) -> None:
    """A blob is asked for by 32 bytes, whatever they are, and found by their hex."""
    (tmp_path / "secret.state").write_bytes(b"secret")
    store = StateStore(tmp_path / "states")
    for address in (b"../secret".ljust(32, b"\0"), b"/" * 32, b"." * 32):
        assert store.find(address) is None
        assert store._path(address).parent == tmp_path / "states"
