"""The report: one page that loads nothing, says everything, and believes no name."""

from __future__ import annotations

import csv
import html
import io
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from audit.sample_audits import BESIDE, sample_audit

from fedit_secure.audit.findings import BELIEVED, CLAIMS, Fault
from fedit_secure.audit.report import render, tables

FAULTS = (
    Fault("ledger-altered", "ledger of south-clinic", "its first 31 entries differ"),
    Fault("state-differs", "round 5", "it isn't the one before it plus the mean"),
)
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """The tags of a page, whether they nest, and what they refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.refers: list[tuple[str, str, str]] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href", "action", "data", "srcset"):
                self.refers.append((tag, name, value or ""))
            assert not name.startswith("on")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_nests_and_loads_and_runs_nothing() -> None:
    text = render(sample_audit(faults=FAULTS), BESIDE, "north-hospital")
    page = Page(text)
    assert page.open == []
    assert not page.tags & {"script", "iframe", "link", "object", "embed", "form"}
    assert len(set(page.ids)) == len(page.ids)
    for tag, _, target in page.refers:
        inside = target.startswith("#") and target[1:] in page.ids
        assert inside or (tag == "image" and target.startswith("data:image/png")), (
            target
        )
    assert "default-src 'none'" in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_every_verdict_fault_and_belief_is_on_it() -> None:
    lacks = {"charter": ("cards/",)}
    page = Page(render(sample_audit(faults=FAULTS, lacks=lacks), BESIDE, "x"))
    for claim, sentence in CLAIMS.items():
        assert claim in page.words
        assert sentence in page.words
    for fault in FAULTS:
        assert fault.code in page.words
        assert fault.what in page.words
        assert fault.where in page.words
    assert all(sentence in page.words for sentence in BELIEVED)
    assert "2 of 11 claims fail" in page.words
    assert "would need cards/" in page.words
    assert "one record, replaced" in page.words


def test_the_verdict_is_the_worst_that_was_found() -> None:
    assert "All 11 claims hold" in render(sample_audit())
    open_ = render(sample_audit(lacks={"epsilon": ("claims/north.claim",)}))
    assert "can't be shown from this bundle" in open_
    assert "claims hold." not in open_


def test_a_bundle_writes_no_markup() -> None:
    evil = "<script>alert(1)</script>"
    audit = sample_audit(
        names=(evil, "south", "east"), faults=(Fault("sum-differs", evil, evil),)
    )
    text = render(replace(audit, run=evil, federation=evil, words=evil), BESIDE, evil)
    assert evil not in text
    assert "script" not in Page(text).tags
    assert html.escape(evil) in text


def test_what_nothing_bounds_is_said_and_not_drawn() -> None:
    audit = sample_audit()
    bare = replace(audit.silos[0].lifetime, published=math.inf)
    silo = replace(audit.silos[0], lifetime=bare, run=None, cap=None, curve=())
    plan = audit.plan | {"privacy": "none", "epsilon": None, "delta": None}
    words = Page(render(replace(audit, silos=(silo,), plan=plan))).words
    assert "unbounded" in words
    assert "without differential privacy" in words


def test_a_run_that_never_began_has_a_page_too() -> None:
    audit = replace(sample_audit(), silos=(), rounds=(), adapter=None)
    words = Page(render(audit)).words
    assert "no cost is known" in words
    assert "shows no round" in words


def test_the_page_is_the_same_each_time() -> None:
    assert render(sample_audit()) == render(sample_audit())


def test_a_hundred_silos_are_a_page_and_not_a_book() -> None:
    many = sample_audit([f"silo-{n}" for n in range(100)], rounds=40)
    text = render(many)
    assert "The 25 of 100 silos" in text
    assert len(text) < 400_000


def test_tables_read_back_as_they_were() -> None:
    audit = sample_audit(faults=FAULTS)
    read = {
        name: list(csv.DictReader(io.StringIO(text)))
        for name, text in tables(audit).items()
    }
    assert [row["claim"] for row in read["verdicts.csv"]] == list(CLAIMS)
    assert [row["fault"] for row in read["faults.csv"]] == [f.code for f in FAULTS]
    for row, silo in zip(read["silos.csv"], audit.silos, strict=True):
        assert float(row["epsilon_published"]) == silo.lifetime.published
    assert len(read["rounds.csv"]) == len(audit.rounds)
    assert len(read["curves.csv"]) == sum(len(s.curve) for s in audit.silos)


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(BROWSER is None, reason="Chromium isn't installed")
@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("silos", [3, 100])
def test_nothing_is_wider_than_the_screen(
    tmp_path: Path, width: int, silos: int
) -> None:
    names = [f"a-hospital-of-some-name-{n}" for n in range(silos)]
    page = render(sample_audit(names, faults=FAULTS), BESIDE, names[0])
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id="f" style="width:{width}px;height:900px;border:0" '
        f'srcdoc="{html.escape(page)}"></iframe><script>onload = () => {{'
        "const page = document.getElementById('f').contentDocument.documentElement;"
        "document.title = 'width ' + page.scrollWidth + ' of ' + page.clientWidth;"
        "};</script>"
    )
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-sync",
        "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1400,1000", "--virtual-time-budget=5000", "--dump-dom",
        frame.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search(r"<title>width (\d+) of (\d+)</title>", done.stdout)
    assert found is not None, done.stdout[:300]
    assert int(found[1]) <= int(found[2])


def test_a_run_that_evaluated_shows_each_mean_with_its_noise() -> None:
    plain = sample_audit()
    assert "Held-out NLL" not in render(plain)
    terms = {"clip": 10.0, "noise_multiplier": 8.0}
    rounds = tuple(
        replace(ended, nll=3.0 - ended.round / 10, nll_deviation=0.05)
        if ended.outcome == "released"
        else ended
        for ended in plain.rounds
    )
    audit = replace(plain, plan=plain.plan | {"evaluation": terms}, rounds=rounds)
    words = " ".join(Page(render(audit)).words.split())
    assert "each clipped to 10 nats; it is noised, and ε counts it" in words
    assert "2.900 ± 0.098" in words
    assert "2.800 ±" not in words  # of the round that was skipped
    read = list(csv.DictReader(io.StringIO(tables(audit)["rounds.csv"])))
    assert [row["held_out_nll"] for row in read[:3]] == ["2.9", "", "2.7"]
    assert read[0]["held_out_nll_deviation"] == "0.05"


def test_it_says_for_whom_rounds_were_drawn() -> None:
    whole = sample_audit()
    assert "Each round was drawn" not in Page(render(whole)).words
    names = tuple(silo.name for silo in whole.silos)
    rounds = tuple(
        replace(ended, drawn=names[:2], contributors=names[:2] if n else ())
        for n, ended in enumerate(whole.rounds)
    )
    some = replace(whole, rounds=rounds, plan=whole.plan | {"silos_per_round": 2})
    words = " ".join(Page(render(some)).words.split())
    assert "3, of which 2 are drawn for each round; at least" in words
    assert "Each round was drawn for 2 of 3 silos, by charter and round number" in words
    assert f"Drawn for: {names[0]} 6, {names[1]} 6, {names[2]} 0." in words
    (first, *_) = csv.DictReader(io.StringIO(tables(some)["rounds.csv"]))
    assert first["drawn"].split() == list(names[:2])
