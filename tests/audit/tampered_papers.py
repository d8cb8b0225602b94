"""Tampered manifests, charters, approvals and cards."""

from __future__ import annotations

import hashlib
import json

from audit.forge import Evidence
from audit.parties import HUB, card_of, found, key_of
from audit.sealing import sealed, signed_manifest
from audit.tampered import Files, honest, refused, tampered

from fedit_secure.audit.bundle import MANIFEST, SIGNATURE, Maker, Manifest
from fedit_secure.federation.approval import Approval, approve


def manifest_of(files: Files) -> Manifest:
    return Manifest.from_bytes(files[MANIFEST], "the manifest")


# ----------------------------------------------------------------------------- bundle


@tampered("file-changed", file="ledgers/s1.jsonl", also={"ledger-altered"})
def a_byte_of_a_ledger_flipped() -> Files:
    """Somebody without any key changes a byte of a ledger in the bundle."""
    files = honest().sealed()
    ledger = bytearray(files["ledgers/s1.jsonl"])
    ledger[500] ^= 1
    return {**files, "ledgers/s1.jsonl": bytes(ledger)}


@tampered("file-changed", file="rounds/000002/sum.int32", also={"sum-differs"})
def a_sum_replaced_in_the_bundle() -> Files:
    """Somebody without any key puts another round's sum into its place."""
    files = honest().sealed()
    other = files["rounds/000001/sum.int32"]
    return {**files, "rounds/000002/sum.int32": other}


@tampered("file-missing", file="claims/s1.claim")
def a_claim_removed_from_the_bundle() -> Files:
    """Somebody without any key takes a claim away."""
    files = honest().sealed()
    del files["claims/s1.claim"]
    return files


@tampered("file-unlisted", file="seen/s1.json")
def a_file_added_to_the_bundle() -> Files:
    """Somebody without any key adds what a silo is said to have seen."""
    files = honest().sealed()
    return {**files, "seen/s1.json": b'{\n  "heads": []\n}\n'}


@tampered("manifest-unsigned")
def a_manifest_by_a_stranger() -> Files:
    """A stranger makes a whole new manifest, signed with a key of its own."""
    evidence = honest()
    charter = evidence.world.charter
    return sealed(evidence.files, charter, HUB, signed_by="stranger")


@tampered("manifest-unsigned", also={"approval-wrong"})
def a_manifest_edited() -> Files:
    """A stranger replaces an approval and enters its digest under the old signature."""
    files = honest().sealed()
    data = files["approvals/s0.approval"]
    files["approvals/s1.approval"] = data
    listed = manifest_of(files)
    digests = {**listed.files}
    digests["approvals/s1.approval"] = hashlib.sha256(data).hexdigest()
    files[MANIFEST] = listed.model_copy(update={"files": digests}).to_bytes()
    return files


@tampered("manifest-unsigned")
def a_bundle_in_a_silos_name() -> Files:
    """The aggregator says that silo s1 made the bundle."""
    evidence = honest()
    return sealed(evidence.files, evidence.world.charter, "s1", signed_by=HUB)


@tampered("manifest-unsigned")
def a_bundle_by_nobody_of_the_charter() -> Files:
    """A silo that the charter doesn't know makes a bundle, under its own key."""
    evidence = honest()
    return sealed(evidence.files, evidence.world.charter, "s9")


@tampered("manifest-unsigned")
def a_silo_that_says_it_is_the_aggregator() -> Files:
    """Silo s1 makes the bundle, in the role of an aggregator."""
    evidence = honest()
    files = sealed(evidence.files, evidence.world.charter, "s1")
    maker = Maker(role="aggregator", name="s1")
    posing = manifest_of(files).model_copy(update={"maker": maker})
    return {**files, **signed_manifest(posing, "s1")}


@tampered("manifest-unsigned")
def a_manifest_without_its_signature() -> Files:
    """Whoever made this doesn't want to be held to it."""
    files = honest().sealed()
    del files[SIGNATURE]
    return files


# ---------------------------------------------------------------------------- charter


@refused("charter.json", "canonical form")
def a_charter_in_other_bytes() -> Evidence:
    """The aggregator hands out the charter's content in another form."""
    evidence = honest()
    content = json.loads(evidence.files["charter.json"])
    evidence.files["charter.json"] = json.dumps(content).encode()
    return evidence


@refused("charter.json", "'approved' is unknown")
def a_charter_with_a_note() -> Evidence:
    """The aggregator adds a field that charters don't have."""
    evidence = honest()
    content = json.loads(evidence.files["charter.json"]) | {"approved": "yes"}
    data = json.dumps(content, indent=2, sort_keys=True).encode() + b"\n"
    evidence.files["charter.json"] = data
    return evidence


@tampered("other-charter")
def a_manifest_of_another_charter() -> Files:
    """The aggregator passes the run off as another charter's."""
    evidence = honest()
    return sealed(evidence.files, found(rounds=9).charter, HUB)


@tampered("approval-missing", silo="s2")
def an_approval_that_was_never_given() -> Evidence:
    """The run went ahead without silo s2's approval."""
    evidence = honest()
    del evidence.files["approvals/s2.approval"]
    return evidence


@tampered("approval-wrong", silo="s2")
def an_approval_by_the_aggregator() -> Evidence:
    """The aggregator signs for silo s2."""
    evidence = honest()
    own = Approval.from_bytes(evidence.files["approvals/s2.approval"], "it")
    made = key_of(HUB).sign(bytes.fromhex(own.digest)).hex()
    forged = own.model_copy(update={"signature": made})
    evidence.files["approvals/s2.approval"] = forged.to_bytes()
    return evidence


@tampered("approval-wrong", silo="s2")
def an_approval_of_another_charter() -> Evidence:
    """Silo s2 approved a charter of less noise's opposite: the aggregator shows that."""
    evidence = honest()
    other = approve(found(noise=4.0).charter, "s2", key_of("s2"))
    evidence.files["approvals/s2.approval"] = other.to_bytes()
    return evidence


@tampered("approval-wrong", silo="s2")
def an_approval_shown_twice() -> Evidence:
    """The aggregator shows silo s1's approval for silo s2's."""
    evidence = honest()
    files = evidence.files
    files["approvals/s2.approval"] = files["approvals/s1.approval"]
    return evidence


@tampered("card-differs", silo="s1")
def a_card_with_another_key() -> Evidence:
    """The aggregator shows a card of silo s1 that it made itself, with a key of its own."""
    evidence = honest()
    card = card_of("s1", signed_by="stranger")
    evidence.files["cards/s1.card"] = card.to_bytes()
    return evidence


@tampered("card-differs", silo="s1")
def a_charter_that_changes_a_size() -> Evidence:
    """Silo s1's own card says 90 records, and the charter calculates with 100."""
    evidence = honest()
    evidence.files["cards/s1.card"] = card_of("s1", records=90).to_bytes()
    return evidence


@tampered("card-differs", silo=HUB)
def an_aggregators_card_with_another_key() -> Evidence:
    """The card of the aggregator isn't of the party that the charter names."""
    evidence = honest()
    card = card_of(HUB, signed_by="stranger")
    evidence.files[f"cards/{HUB}.card"] = card.to_bytes()
    return evidence


@tampered("card-unsigned", silo="s1")
def a_card_edited() -> Evidence:
    """The aggregator writes another contact into silo s1's card."""
    evidence = honest()
    card = card_of("s1").model_copy(update={"contact": "ask me instead"})
    evidence.files["cards/s1.card"] = card.to_bytes()
    return evidence
