"""The page for ethics boards has every field that a silo sends, and what each is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import what_leaves as page
from attacks.what_may_leave import FIELDS, PUBLIC

from fedit_secure.secagg import messages as m
from fedit_secure.wire import frames as f

TEXT = page.PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def specification() -> page.Specification:
    return page.Specification()


def differs() -> str:
    """What `make check` says of the page; a failure if it says nothing."""
    with pytest.raises(SystemExit) as ended:
        page.main(["--check"])
    return str(ended.value)


def section(message: str) -> str:
    """What the page says of one message."""
    (found,) = re.findall(rf"^#### {message}\n(.*?)^(?:####|<!--)", TEXT, re.M | re.S)
    return str(found)


def test_the_page_is_what_the_wire_format_says() -> None:
    page.main(["--check"])


def test_everything_on_the_wire_has_a_comment(
    specification: page.Specification,
) -> None:
    everything = list(specification.everything())
    assert len(everything) > 200
    assert not [x.name for x in everything if " " not in x.comment]


def test_every_message_of_a_silo_is_on_the_page(
    specification: page.Specification,
) -> None:
    """By the sets that both ends hold a peer to, and not by the generator's own list."""
    for kind in f.FROM_SILO - {m.MaskedUpload}:
        assert section(kind.__name__)
    assert "| `data` |" in section("UploadChunk")  # the masked upload
    only_aggregator = f.FROM_AGGREGATOR - f.FROM_SILO
    sent = set(page.sent_by_silos(specification))
    assert not sent & {kind.__name__ for kind in only_aggregator}


def test_every_field_of_a_silo_has_its_class_on_the_page() -> None:
    for kind in f.FROM_SILO:
        for name, of in FIELDS[kind].items():
            if kind is m.MaskedUpload or (kind, name) == (m.ShareBundle, "envelopes"):
                continue
            if kind is m.Reveal and name.endswith("_shares"):
                continue  # by the message inside
            row = rf"^\| `{name}` \| .+ \| {page.CLASSES[of][0]} \|$"
            assert re.search(row, section(kind.__name__), re.M), (kind, name)


@pytest.mark.parametrize("kind", page.entry_kinds(), ids=page.named_in_ledger)
def test_every_ledger_entry_is_on_the_page_with_its_fields(kind: type) -> None:
    (row,) = re.findall(rf"^\| `{page.named_in_ledger(kind)}` \|.*$", TEXT, re.M)
    for name in FIELDS[kind].keys() - {"kind", "version"}:
        assert f"`{name}`" in row


def test_another_class_changes_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FIELDS[f.Hello], "ledger_sequence", page.KEYED)
    assert "run `make what-leaves`" in differs()


def test_a_field_in_no_table_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FIELDS[m.Advert], "mask_key")
    assert "Advert.mask_key is in no table" in differs()


def test_a_class_without_a_column_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FIELDS[page.events.Masked], "ctx", page.UPDATE)
    assert "Masked has a field" in differs()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("  uint64 round = 1;\n", "doesn't say what Ready.round is"),
        (
            "  uint64 round = 1; // it\n  double loss = 2; // how well it went\n",
            "Ready.loss is in no table",
        ),
    ],
    ids=["no comment", "new field"],
)
def test_a_field_without_meaning_or_class_is_noticed(
    lines: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = page.SPECIFICATION.read_text(encoding="utf-8")
    before = "  uint64 round = 1; // the round that the update is for\n"
    assert usual.count(before) == 1
    changed = tmp_path / "federation.proto"
    changed.write_text(usual.replace(before, lines), encoding="utf-8")
    specification = page.Specification(changed)
    monkeypatch.setattr(page, "Specification", lambda: specification)
    assert said in differs()


def test_a_value_of_an_enum_is_told(specification: page.Specification) -> None:
    for phase in f.PHASES:
        assert re.search(rf"\W{phase}\W", section("Phase"))
    assert page.class_of("Phase", "name") == PUBLIC
