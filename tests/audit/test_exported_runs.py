"""Runs of real daemons, exported and verified: whatever happened to them, nothing fails."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_federation
from audit.stories import LINK, STORIES

from fedit_secure.audit.bundle import Maker
from fedit_secure.audit.evidence.export import export_bundle
from fedit_secure.audit.evidence.run_evidence import run_evidence
from fedit_secure.audit.facts import Audit
from fedit_secure.audit.findings import CLAIMS
from fedit_secure.audit.verify import audit_bundle

LACKS = {  # claims that the story's bundle can't show
    # s5 never came, so the aggregator has no ledger of it; s2 was gone before its claim.
    "dropped": {"ledgers", "epsilon"}
}


@pytest.fixture(autouse=True)
def _points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_federation, "FaultyLink", LINK)


async def audited(story: str, root: Path) -> Audit:
    federation = await STORIES[story](root)
    cards = [party.card for party in (*federation.silos, federation.aggregator)]
    evidence = run_evidence(federation.root / "run", federation.charter, cards=cards)
    export_bundle(
        root / "bundle.zip",
        evidence.pieces,
        maker=Maker(role="aggregator", name="hub"),
        charter=federation.charter.digest(),
        key=federation.aggregator.signing,
        replace=False,
    )
    return audit_bundle(root / "bundle.zip")


@pytest.mark.parametrize("story", STORIES)
async def test_an_honest_run_passes(tmp_path: Path, story: str) -> None:
    audit = await audited(story, tmp_path)
    assert [fault for v in audit.verdicts for fault in v.faults] == []
    lacking = {v.claim for v in audit.verdicts if v.result == "not shown"}
    assert lacking == LACKS.get(story, set())
    assert len(audit.verdicts) == len(CLAIMS)
    assert audit.adapter is not None
