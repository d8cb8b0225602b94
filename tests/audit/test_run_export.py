"""The bundle of an aggregator's run, read with nothing but the format and the keys."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import small_federation
from audit.stories import LINK, STORIES
from small_federation import LENGTH, SmallFederation

from fedit_secure.audit.bundle import (
    LABEL,
    MANIFEST,
    SIGNATURE,
    AdapterDigests,
    Bundle,
    Maker,
    Manifest,
    SignedHead,
    round_name,
)
from fedit_secure.audit.evidence.export import export_bundle
from fedit_secure.audit.evidence.run_evidence import run_evidence
from fedit_secure.errors import ConfigError, StorageError
from fedit_secure.federation.adapter_digests import adapter_of
from fedit_secure.federation.approval import Approval, verify_approvals
from fedit_secure.federation.heads import check_head
from fedit_secure.federation.update import GridState, apply_update
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.secagg.keys import verify
from fedit_secure.secagg.transcript import digest
from fedit_secure.storage.progress import Progress
from fedit_secure.wire.codec import PublishedNotice, decode
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import whole_sum


@pytest.fixture(autouse=True)
def _points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_federation, "FaultyLink", LINK)


def export(federation: SmallFederation, path: Path, *, replace: bool = False) -> Bundle:
    charter = federation.charter
    cards = [party.card for party in (*federation.silos, federation.aggregator)]
    evidence = run_evidence(federation.root / "run", charter, cards=cards)
    export_bundle(
        path,
        evidence.pieces,
        maker=Maker(role="aggregator", name="hub"),
        charter=charter.digest(),
        key=federation.aggregator.signing,
        replace=replace,
    )
    return Bundle(path)


def drafts_in(folder: Path) -> list[str]:
    return [found.name for found in folder.iterdir() if found.name.startswith(".")]


def frame(federation: SmallFederation, bundle: Bundle, round: int, name: str):
    data = bundle.read(round_name(round, name))
    limits = Limits.of(federation.charter.secagg_params())
    return None if data is None else decode(data, limits)


def entries_of(bundle: Bundle, silo: str) -> list[bytes]:
    data = bundle.read(f"ledgers/{silo}.jsonl")
    assert data is not None
    assert data.endswith(b"\n")
    return data[:-1].split(b"\n")


def assert_sealed(federation: SmallFederation, bundle: Bundle) -> None:
    """Every file is in the manifest as it is, and the maker signed that."""
    data, signature = bundle.read(MANIFEST), bundle.read(SIGNATURE)
    assert data is not None
    assert signature is not None
    manifest = Manifest.from_bytes(data, MANIFEST)
    assert manifest.maker == Maker(role="aggregator", name="hub")
    assert manifest.charter == federation.charter.digest().hex()
    verify(federation.aggregator.signing.public, digest(LABEL, data), signature)
    assert set(bundle.names) == {*manifest.files, MANIFEST, SIGNATURE}
    for name, sha256 in manifest.files.items():
        assert bundle.sha256(name) == sha256


def assert_parties(federation: SmallFederation, bundle: Bundle) -> None:
    charter = federation.charter
    assert bundle.read("charter.json") == charter.to_bytes()
    approvals = []
    for silo in bundle.stems("approvals", ".approval"):
        data = bundle.read(f"approvals/{silo}.approval")
        assert data is not None
        approvals.append(Approval.from_bytes(data, silo))
    verify_approvals(charter, approvals)
    cards = {party.name for party in (*federation.silos, federation.aggregator)}
    assert set(bundle.stems("cards", ".card")) == cards


def assert_ledgers(federation: SmallFederation, bundle: Bundle) -> None:
    """Each ends at a head that both have signed."""
    for silo in bundle.stems("ledgers", ".jsonl"):
        data = bundle.read(f"heads/{silo}.json")
        assert data is not None
        signed = SignedHead.from_bytes(data, silo)
        entries = entries_of(bundle, silo)
        last = bytes(32)
        for entry in entries:
            last = hashlib.sha256(last + entry).digest()
        assert (signed.sequence, signed.hash) == (len(entries), last.hex())
        key = bytes.fromhex(federation.charter.row(silo).identity)
        check_head(silo, key, signed.head, bytes.fromhex(signed.signature))
        assert signed.countersignature is not None
        hub = federation.aggregator.signing.public
        check_head(silo, hub, signed.head, bytes.fromhex(signed.countersignature))


def assert_rounds(federation: SmallFederation, bundle: Bundle) -> list[tuple[int, ...]]:
    """From the initial state every round's sum leads to the state that t silos certified,
    its adverts are those of that attempt, and its adapter is that state's. Returns the
    contributors of each round, none of one that was skipped."""
    charter, params = federation.charter, federation.charter.secagg_params()
    data, written = bundle.read("initial.state"), bundle.read("adapters.json")
    assert data is not None
    assert written is not None
    digests = AdapterDigests.from_bytes(written, "adapters").by_round
    state, summed = GridState.from_bytes(data), []
    for round in range(1, charter.rounds + 1):
        proof = frame(federation, bundle, round, "certificate.frame")
        assert isinstance(proof, m.RoundCertificate)
        assert proof.round == round
        roster, charter_digest = charter.secagg_roster(), charter.digest()
        after, release = checks.certified(
            roster, charter_digest, proof, params.threshold
        )
        if release:
            notice = frame(federation, bundle, round, "published.frame")
            assert isinstance(notice, PublishedNotice)
            total = bundle.read(round_name(round, "sum.int32"))
            assert total is not None
            out = whole_sum(notice, total, Limits.of(params))
            assert out.release_digest == release
            adverts = frame(federation, bundle, round, "adverts.frame")
            assert isinstance(adverts, m.AdvertSet)
            assert adverts.ctx == out.ctx
            heads = {advert.silo: advert.ledger_head for advert in adverts.adverts}
            assert set(out.contributors) <= set(heads)
            for silo in out.contributors:
                name = charter.roster[silo].name
                seen = entries_of(bundle, name)[: heads[silo].sequence]
                charged = [json.loads(entry) for entry in seen]
                assert any(
                    entry["kind"] == "intent" and entry["round"] == round
                    for entry in charged
                )
            what = (out.total, params, out.contributors, charter.update_rule)
            state = apply_update(state, *what)
            summed.append(out.contributors)
        else:
            assert not any(
                name.startswith(round_name(round, "")) and "certificate" not in name
                for name in bundle.names
            )
            summed.append(())
        assert state.digest() == after
        assert digests[str(round)] == adapter_of(state)
    return summed


@pytest.mark.parametrize("story", STORIES)
async def test_a_run_can_be_followed_from_its_bundle_alone(
    tmp_path: Path, story: str
) -> None:
    federation = await STORIES[story](tmp_path)
    with export(federation, tmp_path / "bundle.zip") as bundle:
        assert_sealed(federation, bundle)
        assert_parties(federation, bundle)
        assert_ledgers(federation, bundle)
        summed = assert_rounds(federation, bundle)
        ledgers = set(bundle.stems("ledgers", ".jsonl"))
    everyone = tuple(range(len(federation.silos)))
    if story == "skipped":
        assert summed == [(), everyone]
    elif story == "cut_off":
        assert summed == [(), (0, 1, 3, 4)]  # the policy of s2 refuses a third charge
    elif story == "dropped":
        assert summed == [(0, 1, 3, 4)]
        assert ledgers == {"s0", "s1", "s2", "s3", "s4"}
    else:
        assert summed[0] == everyone


async def test_the_same_evidence_gives_the_same_bytes(tmp_path: Path) -> None:
    federation = await STORIES["plain"](tmp_path)
    export(federation, tmp_path / "one.zip").close()
    export(federation, tmp_path / "two.zip").close()
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        names = archive.namelist()
        stored = {
            info.filename
            for info in archive.infolist()
            if info.compress_type == zipfile.ZIP_STORED
        }
    assert names == sorted(names)
    assert stored == {round_name(r, "sum.int32") for r in (1, 2)}


async def test_of_a_run_that_goes_on_the_certified_part_is_taken(
    tmp_path: Path,
) -> None:
    """The ledger goes on to an entry without a signed head, and the next round has a sum
    that nobody has confirmed."""
    federation = await STORIES["plain"](tmp_path)
    run = federation.root / "run"
    Progress(round=2, attempt=1, open=True, certified=1).save(run)
    with (run / "ledgers/s0.jsonl").open("ab") as file:
        file.write(b'{"half')
    with export(federation, tmp_path / "bundle.zip") as bundle:
        assert not any(name.startswith("rounds/000002/") for name in bundle.names)
        assert round_name(1, "sum.int32") in bundle.names
        assert_sealed(federation, bundle)
        assert_ledgers(federation, bundle)
        assert not bundle.read("ledgers/s0.jsonl").endswith(b"half")  # type: ignore[union-attr]


# ------------------------------------------------------------------ what can't be exported


async def test_a_run_that_lacks_something_essential_is_refused(tmp_path: Path) -> None:
    federation = await STORIES["plain"](tmp_path)
    run, initial = federation.root / "run", federation.charter.adapter.initial_digest
    first = run / "rounds/001"
    for path, what in (
        (run / "charter.json", "there is no run of this charter"),
        (run / "approvals/s1.approval", "haven't approved the charter: s1"),
        (run / f"states/{initial}.state", "initial state"),
        (run / "ledgers/s1.head", "isn't here with a signed head"),
        (run / "ledgers/s1.jsonl", "can't be read"),
        (first / "certificate.frame", "round 1 is certified, but"),
        (first / "published.frame", "round 1 is certified, but"),
        (first / "adverts.frame", "round 1 is certified, but"),
        (first / "sum.int32", f"isn't a sum of {LENGTH} integers"),
    ):
        kept = path.read_bytes()
        path.unlink()
        with pytest.raises((ConfigError, StorageError), match=what):
            export(federation, tmp_path / "bundle.zip")
        assert not (tmp_path / "bundle.zip").exists()
        path.write_bytes(kept)
    export(federation, tmp_path / "bundle.zip").close()


async def test_what_doesnt_belong_together_is_refused(tmp_path: Path) -> None:
    federation = await STORIES["plain"](tmp_path)
    run = federation.root / "run"
    second, first = run / "rounds/002", run / "rounds/001"
    ledger = (run / "ledgers/s1.jsonl").read_bytes()
    other = b"x" * (4 * LENGTH - 1)
    for path, data, what in (
        (first / "adverts.frame", second / "adverts.frame", "of another attempt"),
        (first / "published.frame", second / "published.frame", "of another attempt"),
        (first / "published.frame", b"\x00", "is damaged"),
        (first / "published.frame", first / "adverts.frame", "isn't a PublishedNotice"),
        (first / "sum.int32", other, "isn't a sum"),
        (run / "charter.json", b"{}\n", "the run of another charter"),
        (
            run / "ledgers/s1.jsonl",
            ledger.replace(b"run", b"ruN", 1),
            "isn't the ledger",
        ),
        (run / "ledgers/s1.jsonl", ledger[:-1], "ends before entry"),
        (first / "adapter/adapter_model.safetensors", b"PK", "can't be read"),
    ):
        kept = path.read_bytes()
        path.write_bytes(data if isinstance(data, bytes) else data.read_bytes())
        with pytest.raises((ConfigError, StorageError), match=what):
            export(federation, tmp_path / "bundle.zip")
        assert not (tmp_path / "bundle.zip").exists()
        path.write_bytes(kept)


async def test_a_sum_with_a_silo_whose_ledger_isnt_here_is_refused(
    tmp_path: Path,
) -> None:
    federation = await STORIES["plain"](tmp_path)
    for end in ("head", "jsonl"):
        (federation.root / "run/ledgers" / f"s2.{end}").unlink()
    with pytest.raises(StorageError, match="round 1 holds an update of silo 's2'"):
        export(federation, tmp_path / "bundle.zip")


async def test_a_bundle_is_replaced_only_if_that_is_asked_for(tmp_path: Path) -> None:
    federation, path = await STORIES["plain"](tmp_path), tmp_path / "bundle.zip"
    path.write_bytes(b"mine")
    with pytest.raises(ConfigError, match="exists already"):
        export(federation, path)
    assert path.read_bytes() == b"mine"
    with export(federation, path, replace=True) as bundle:
        assert_sealed(federation, bundle)
    assert drafts_in(tmp_path) == []


async def test_a_file_that_changes_under_the_export_leaves_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest is signed before the files are written: what it doesn't say can't be in
    the bundle."""
    federation = await STORIES["plain"](tmp_path)
    path = federation.root / "run/rounds/001/sum.int32"
    real = zipfile.ZipFile

    def late(*given, **named):
        path.write_bytes(np.zeros(LENGTH, "<i4").tobytes())
        return real(*given, **named)

    monkeypatch.setattr("fedit_secure.audit.evidence.export.zipfile.ZipFile", late)
    with pytest.raises(StorageError, match="changed while it was exported"):
        export(federation, tmp_path / "bundle.zip")
    assert not (tmp_path / "bundle.zip").exists()
