"""The page over HTTP: what it shows, to whom, and that it can't hurt the run."""

# ruff: noqa: RUF001 - dashes are what the page shows
from __future__ import annotations

import asyncio
import json
import logging
import re
import signal
import socket
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from watch.sample_snapshots import NOW, a_silo, an_aggregator, cap, ended
from watch.serving_page import ask, shown, until_up

from fedit_secure.federation.page import PageConfig
from fedit_secure.simulation.processes import free_address
from fedit_secure.watch import server
from fedit_secure.watch.metrics import Metrics
from fedit_secure.watch.server import serving
from fedit_secure.watch.snapshot import Snapshot, from_json

PATHS = ("/", "/live", "/snapshot.json", "/metrics", "/healthz", "/nothing")


class Page(HTMLParser):
    """Its text and elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._silent = False
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._silent = tag in {"style", "script"}

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words.append(data)


async def page_of(snapshot: Snapshot) -> Page:
    async with shown(lambda: snapshot) as address:
        answer = await ask(address)
    assert answer.status == 200
    return Page(answer.text)


async def test_an_aggregators_page_says_all_that_it_knows() -> None:
    text = (await page_of(an_aggregator())).text
    for words in (
        "Aggregator hub",
        "Federation north, run spring, charter epoch 3",
        "Round 3 of 5: tuning.",
        "2 of 3 silos connected, 1 ready; a sum needs 2.",
        "2 of 5 rounds closed; about 3 h 5 min to go",
        "clinic-a ✓ yes ✓ yes tuned 5 s 94.2 MiB 12.1 KiB",
        "university-hospital-c ✗ no – away 2 min",
        "2 – skipped – 1 h 1 min 0202020202020202 rounds/002/adapter",
        "silo clinic-a issuer 2027-01-20 08:01 UTC 5",
        f"7 entries, head {'cd' * 32}",
        "ab" * 32,
    ):
        assert words in text
    assert "ε" not in text  # which an aggregator can't judge


async def test_a_silos_page_shows_epsilon_against_every_cap() -> None:
    page = await page_of(a_silo())
    for words in (
        "Silo clinic-a",
        "Round 3 of 5: tuning, step 3 of 8.",
        "ε 3.142 of 8 in all, at δ = 1e-6: 39 %",
        "ε 3.9 of 4 in 90 days, at δ = 1e-6: 98 %",
        "Charges of this run 3 of 6, spares included",
        "11 entries",
    ):
        assert words in page.text
    bars = {at["class"]: at["width"] for tag, at in page.tags if tag == "rect"}
    assert bars["fill bad"] == "97.50"
    assert bars["fill open"] == "85.00"
    named = [at["aria-label"] for tag, at in page.tags if tag == "svg"]
    assert "ε 3.4 of 4, per run" in named


async def test_what_isnt_bounded_or_capped_is_said() -> None:
    silo = replace(a_silo(), caps=(cap("in all", None, 8.0),), run_epsilon=None)
    text = (await page_of(silo)).text
    assert "ε unbounded of 8 in all, at δ = 1e-6: 100 %" in text
    assert "without differential privacy" in text
    assert "Nothing bounds" in (await page_of(replace(silo, caps=()))).text


@pytest.mark.parametrize(
    ("snapshot", "kind", "words"),
    [
        (replace(a_silo(), connected=False), "open", "Not connected"),
        (
            replace(
                an_aggregator(),
                silos=tuple(
                    replace(s, connected=False, ready=False)
                    for s in an_aggregator().silos
                ),
            ),
            "open",
            "0 of 3 silos connected",
        ),
        (
            replace(
                a_silo(),
                daemon=replace(a_silo().daemon, state="failed", why="No disk."),
            ),
            "bad",
            "The daemon has failed. No disk.",
        ),
        (
            replace(a_silo(), daemon=replace(a_silo().daemon, state="ended")),
            "good",
            "The run has ended.",
        ),
    ],
)
async def test_the_headline_says_the_worst_first(
    snapshot: Snapshot, kind: str, words: str
) -> None:
    page = await page_of(snapshot)
    (first,) = [
        at for tag, at in page.tags if at.get("class", "").startswith("verdict ")  # type: ignore[union-attr]
        and at.get("id") is None
    ]  # fmt: skip
    assert first["class"] == f"verdict {kind}"
    assert words in page.text


async def test_tables_have_captions_and_heads_and_bars_have_words() -> None:
    page = await page_of(an_aggregator())
    tags = [tag for tag, _ in page.tags]
    assert tags.count("table") == tags.count("caption") == tags.count("thead") == 3
    heads = [at for tag, at in page.tags if tag == "th"]
    assert all(at.get("scope") in {"col", "row"} for at in heads)
    assert all(at.get("aria-label") for tag, at in page.tags if tag == "svg")
    assert tags.count("main") == tags.count("h1") == 1


async def test_nothing_is_loaded_from_elsewhere_and_only_own_code_may_run() -> None:
    async with shown(an_aggregator) as address:
        one, two = [await ask(address) for _ in range(2)]
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", one.text)
    assert not re.findall(r"\son\w+=|javascript:|\sstyle=", one.text)
    nonces = []
    for answer in (one, two):
        policy = answer.headers["content-security-policy"]
        (nonce,) = set(re.findall(r"'nonce-([\w-]{20,})'", policy))
        assert set(re.findall(r'nonce="([^"]+)"', answer.text)) == {nonce}
        assert len(re.findall(r"<(?:script|style)", answer.text)) == 2
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        nonces.append(nonce)
    assert nonces[0] != nonces[1]


@pytest.mark.parametrize("path", PATHS)
async def test_every_answer_carries_the_headers(path: str) -> None:
    async with shown(a_silo) as address:
        answer = await ask(address, path)
        head = await ask(address, path, "HEAD")
        refused = await ask(address, path, headers={"Host": "evil.example"})
    assert answer.status == (404 if path == "/nothing" else 200)
    assert (head.status, head.text) == (answer.status, "")
    assert refused.status == 400
    for each in (answer, head, refused):
        assert "default-src 'none'" in each.headers["content-security-policy"]
        assert each.headers["x-content-type-options"] == "nosniff"
        assert each.headers["cache-control"] == "no-store"
        assert each.headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in each.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_nothing_can_be_changed(method: str) -> None:
    async with shown(a_silo) as address:
        for path in PATHS[:-1]:
            assert (await ask(address, path, method)).status == 405


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:9464", 200),
        ("127.0.0.1", 200),
        ("[::1]:9464", 200),
        ("10.0.0.5:9464", 200),
        ("monitor.clinic.example", 200),
        ("evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("localhost.evil.example", 400),
        ("127.0.0.1@evil.example", 400),
        ("", 400),
    ],
)
async def test_a_site_whose_name_points_here_reads_nothing(
    host: str, status: int
) -> None:
    """DNS rebinding: the browser asks us, by the attacker's name."""
    async with shown(a_silo, ("monitor.clinic.example",)) as address:
        answer = await ask(address, "/snapshot.json", headers={"Host": host})
    assert answer.status == status
    assert ("epsilon" in answer.text) == (status == 200)


async def test_what_it_shows_is_text() -> None:
    evil = "<script>alert(1)</script>"
    silo = replace(
        a_silo(),
        aggregator=evil,
        rounds=(replace(ended(1), contributors=(evil,)),),
        now=replace(a_silo().now, phase=evil),
    )
    async with shown(lambda: silo) as address:
        answer = await ask(address)
    assert evil not in answer.text
    assert evil in Page(answer.text).text


async def test_snapshot_and_metrics_say_the_same() -> None:
    async with shown(an_aggregator) as address:
        snapshot = await ask(address, "/snapshot.json")
        metrics = await ask(address, "/metrics")
        health = await ask(address, "/healthz")
    assert snapshot.headers["content-type"] == "application/json"
    assert from_json(snapshot.text.encode(), "it") == an_aggregator()
    assert json.loads(snapshot.text)["daemon"]["at"] == NOW
    assert "fedit_silos_connected 2.0" in metrics.text
    assert metrics.headers["content-type"].startswith("text/plain")
    assert health.text == "running\n"


async def test_a_daemon_that_has_ended_isnt_healthy() -> None:
    over = replace(a_silo(), daemon=replace(a_silo().daemon, state="failed"))
    async with shown(lambda: over) as address:
        assert (await ask(address, "/healthz")).status == 503
        assert await asked_as_a_container_does(address) == 1


async def asked_as_a_container_does(address: str) -> int:
    command = [sys.executable, "-m", "fedit_secure.watch.ask_healthz", address]
    return await (await asyncio.create_subprocess_exec(*command)).wait()


async def test_a_containers_health_check() -> None:
    async with shown(a_silo) as address:
        port = address.rpartition(":")[2]
        assert await asked_as_a_container_does(address) == 0
        assert await asked_as_a_container_does(f"0.0.0.0:{port}") == 0
        with socket.create_server(("127.0.0.1", 0)) as silent:
            elsewhere = f"127.0.0.1:{silent.getsockname()[1]}"
        assert await asked_as_a_container_does(elsewhere) == 1
        assert await asked_as_a_container_does("nowhere") == 1


async def test_a_page_that_fails_leaves_the_daemon_alone() -> None:
    broken = [True]

    def snapshot() -> Snapshot:
        if broken[0]:
            raise ValueError("a bug in the display")
        return a_silo()

    async with shown(snapshot) as address:
        for path in PATHS[:-1]:
            answer = await ask(address, path)
            assert answer.status == 500
            assert "display" not in answer.text
        broken[0] = False
        assert (await ask(address)).status == 200


async def test_a_port_that_is_taken_costs_a_warning_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "_RETRY_SECONDS", 0.01)
    address = free_address()
    host, _, port = address.rpartition(":")
    with socket.socket() as taken:
        taken.bind((host, int(port)))
        taken.listen()
        async with serving(PageConfig(listen=address), a_silo, Metrics()):
            await asyncio.sleep(0.2)  # in which it is tried many times
            taken.close()
            await until_up(address)
            assert (await ask(address)).status == 200
    warned = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warned) == 1
    assert f"can't listen on {address}" in warned[0].getMessage()


async def test_an_address_of_no_machine_of_ours_is_no_reason_to_stop() -> None:
    config = PageConfig(listen="192.0.2.1:99999", public=True)
    async with serving(config, a_silo, Metrics()):
        await asyncio.sleep(0.05)


async def test_signals_stay_the_daemons() -> None:
    def mine() -> None:
        """Whatever the daemon does."""

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, mine)
    try:
        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        async with shown(a_silo) as address:
            await ask(address)
            during = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        after = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        assert before == during == after
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def test_an_open_connection_doesnt_hold_the_daemon_up() -> None:
    async with asyncio.timeout(60):
        async with shown(a_silo) as address:
            host, _, port = address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n")  # and no end
            await writer.drain()
        assert await reader.read() == b""
        writer.close()


async def test_what_held_out_records_say_is_there_where_it_was_evaluated() -> None:
    plain = an_aggregator()
    assert "Held-out NLL" not in (await page_of(plain)).text
    read = replace(ended(1), nll=3.14159, nll_deviation=0.1)
    text = (await page_of(replace(plain, rounds=(read, ended(2, "skipped"))))).text
    assert "Held-out NLL before it" in text
    assert "3.142 ± 0.196" in text
    # Without noise it is for the silo's own operator.
    assert "Own, which stays here" not in text
    own = replace(read, adapter=None, seconds=None, own_nll=2.71828)
    text = (await page_of(replace(a_silo(), rounds=(own,)))).text
    assert "Own, which stays here" in text
    assert "2.718" in text


def test_the_metrics_of_a_silo_hold_no_figure_of_its_own() -> None:
    own = replace(ended(1), nll=3.14159, nll_deviation=0.1, own_nll=2.71828)
    silo, metrics = replace(a_silo(), rounds=(own,)), Metrics()
    metrics.follow(lambda: silo)
    told, _ = metrics.exposition("text/plain")
    assert b"2.718" not in told
    assert b"fedit_epsilon_spent" in told
