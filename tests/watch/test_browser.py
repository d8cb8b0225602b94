"""The page in a real browser: it fits, it is live, and its policy stops nothing of its own."""

from __future__ import annotations

import asyncio
import html
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from watch.sample_snapshots import SILOS, a_silo, an_aggregator
from watch.serving_page import ask, shown

from fedit_secure.watch.snapshot import AggregatorSnapshot, Snapshot

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="Chromium isn't installed")


async def document(url: str, folder: Path) -> tuple[str, list[str]]:
    """What a browser makes of a page, and what it complains of on its console."""
    assert BROWSER is not None
    process = await asyncio.create_subprocess_exec(
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-sync",
        "--disable-component-update", f"--user-data-dir={folder / 'profile'}",
        "--window-size=1400,1000", "--virtual-time-budget=5000",
        "--enable-logging=stderr", "--dump-dom", url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(120):
            out, complaints = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    said = [x for x in complaints.decode().splitlines() if "CONSOLE" in x]
    return out.decode(), said


async def test_it_goes_on_by_itself(tmp_path: Path) -> None:
    asked = [0]

    def snapshot() -> AggregatorSnapshot:
        asked[0] += 1
        hub = an_aggregator()
        return replace(hub, now=replace(hub.now, attempt=asked[0]))

    async with shown(snapshot) as address:
        first = await ask(address)
        seen, complaints = await document(f"http://{address}/", tmp_path)
    assert not complaints  # not of the policy either
    attempts = [
        int(re.findall(r"tuning, attempt (\d+)\.", x)[0]) for x in (first.text, seen)
    ]
    assert attempts[1] > attempts[0] + 1  # loaded, and looked at again at least once
    assert 'id="lost" class="verdict bad" role="alert" hidden=""' in seen


async def test_it_says_when_the_daemon_is_gone(tmp_path: Path) -> None:
    left = [1_000_000]

    def snapshot() -> Snapshot:
        left[0] -= 1
        if left[0] < 0:
            raise ValueError("the daemon has no answer any more")
        return a_silo()

    async with shown(snapshot) as address:
        left[0] = 1  # the page itself, and nothing after it
        seen, _ = await document(f"http://{address}/", tmp_path)
    assert 'id="lost" class="verdict bad" role="alert"><strong>' in seen
    assert "Round 3 of 5: tuning" in seen  # how it stood last


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("role", ["aggregator", "silo"])
async def test_nothing_is_wider_than_the_screen(
    tmp_path: Path, width: int, role: str
) -> None:
    names = (*SILOS, *(f"a-hospital-of-some-name-{n}" for n in range(30)))
    snapshot = an_aggregator(names) if role == "aggregator" else a_silo()
    async with shown(lambda: snapshot) as address:
        page = (await ask(address)).text
    # In a frame of that width, and without the header that would forbid it.
    page = page.replace("setTimeout(look, 2000);", "")
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id="f" style="width:{width}px;height:900px;border:0" '
        f'srcdoc="{html.escape(page)}"></iframe><script>onload = () => {{'
        "const page = document.getElementById('f').contentDocument.documentElement;"
        "document.title = 'width ' + page.scrollWidth + ' of ' + page.clientWidth;"
        "};</script>"
    )
    seen, _ = await document(frame.as_uri(), tmp_path)
    found = re.search(r"<title>width (\d+) of (\d+)</title>", seen)
    assert found is not None, seen[:300]
    assert int(found[1]) <= int(found[2]) <= width
