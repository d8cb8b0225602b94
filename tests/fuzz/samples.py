"""Valid bytes of every format, made from fixed keys."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from safetensors.numpy import save
from wire_samples import FRAMES, HEAD, HEADER, PUBLISHED, h, s

from fedit_secure.federation.approval import ApprovedEpoch
from fedit_secure.federation.card import sign_card
from fedit_secure.federation.certificates import make_issuer, make_leaf
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.claim import Claim, Stated
from fedit_secure.federation.heads import SignedHead, sign_head
from fedit_secure.federation.update import GridState
from fedit_secure.privacy import ledger as pl
from fedit_secure.privacy.evaluation import EvaluationPlan
from fedit_secure.privacy.plan import DpPlan
from fedit_secure.secagg import messages as m
from fedit_secure.secagg.keys import SigningKey
from fedit_secure.silo.personal_file import Origin, packed
from fedit_secure.storage.life import Life
from fedit_secure.wire import bulk
from fedit_secure.wire import frames as f
from fedit_secure.wire.codec import PublishedNotice, encode

_VECTORS = Path(__file__).parents[1] / "vectors"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ISSUER_KEY = ec.derive_private_key(0x5EED, ec.SECP256R1())
SIGNING_KEY = SigningKey.from_seed(b"s" * 32)
ISSUER = make_issuer(
    ISSUER_KEY, "silo", "clinic-a", NOW, datetime(2029, 1, 1, tzinfo=UTC)
)

# -------------------------------------------------------------------------------- wire

PAYLOAD = bytes(range(26))
BLOB = bytes(range(64))
WIRE = tuple(encode(x) for x in (*FRAMES, PublishedNotice.of(PUBLISHED, h(7))))
WIRE_OF_SILOS = tuple(encode(x) for x in FRAMES if type(x) in f.FROM_SILO)
RECEIPT = f.HeadReceipt(HEAD, sign_head(SIGNING_KEY, "north", HEAD))
UPLOAD = bulk.upload_start(HEADER)
CHUNKS = tuple(bulk.upload_chunk(0, PAYLOAD, tell=tell) for tell in (False, True))
UPLOAD_STATES = (bulk.upload_state(0), bulk.upload_state(26))
FETCH = bulk.fetch_request(h(5))
BLOBS = (next(bulk.blob_chunks(BLOB)), next(bulk.blob_chunks(b"")))


def receipts() -> tuple[bytes, ...]:
    """A right receipt, a wrong one, and one of another ledger."""
    other = m.LedgerHead("x" * 200, 1 << 53, h(1))
    wrong = f.HeadReceipt(other, s(1))
    right = f.HeadReceipt(other, sign_head(SIGNING_KEY, "north", other))
    return tuple(encode(frame) for frame in (RECEIPT, wrong, right))


# --------------------------------------------------------------------------- documents


def charters() -> tuple[bytes, ...]:
    """The vector's charter; with an issuer of ours in it; without DP; evaluating."""
    golden = (_VECTORS / "charter.json").read_bytes()
    content = json.loads(golden)
    content["roster"][0]["issuer_certificate"] = ISSUER
    ours = Charter.model_validate_json(json.dumps(content)).to_bytes()
    evaluating = json.loads(golden)
    evaluating["evaluation"] = {"clip": 10.0, "noise_multiplier": 8.0}
    evaluating["roster"][1]["held_out"] = 40
    content["dp"] |= {"kind": "none", "epsilon": None, "delta": None}
    for row in content["roster"]:
        row["dp"]["noise_multiplier"] = 0.0
    content |= {"epoch": 2, "predecessor": "ab" * 32}
    made = (Charter.model_validate_json(json.dumps(c)) for c in (content, evaluating))
    return golden, ours, *(charter.to_bytes() for charter in made)


def cards() -> tuple[bytes, ...]:
    """The vector's card, one with an issuer of ours, and an aggregator's."""
    given = {
        "issuer_certificate": ISSUER,
        "expires": date(2029, 1, 1),
        "contact": "Zoë <it@clinic-a.example>",
    }
    silo = sign_card(
        SIGNING_KEY, name="a", role="silo", population="p", records=None, **given
    )
    hub = sign_card(
        SIGNING_KEY, name="b", role="aggregator", population=None, records=None, **given
    )
    golden = (_VECTORS / "clinic-a.card").read_bytes()
    return golden, silo.to_bytes(), hub.to_bytes()


def approvals() -> tuple[bytes, ...]:
    """The vector's approval, of the vector's charter."""
    return ((_VECTORS / "clinic-a.approval").read_bytes(),)


def golden_charter() -> Charter:
    """The vector's charter."""
    return Charter.load(_VECTORS / "charter.json")


def approved_epochs() -> tuple[bytes, ...]:
    """A silo's memory of what it approved."""
    made = (
        ApprovedEpoch(federation="north", epoch=n, digest="0a" * 32)
        for n in (1, 2**32 - 1)
    )
    return tuple(record.to_bytes() for record in made)


def claims() -> tuple[bytes, ...]:
    """A claim, and one of a silo without DP, in which an accountant had no answer."""
    stated = Stated(delta=1e-6, pld=0.5, prv=0.51, rdp=0.7, published=0.51)
    unbounded = Stated(delta=1e-6, pld=None, prv=None, rdp=None, published=None)
    given = {
        "silo": "a",
        "population": "Zoë's",
        "charter": "0a" * 32,
        "hash": "0b" * 32,
    }
    made = (
        Claim(
            **given, unit=unit, sequence=n, run=run, lifetime=life, signature="0c" * 64
        )
        for unit, n, run, life in (
            ("record", 1, stated, stated),
            ("person", 2**53 - 1, None, unbounded),
        )
    )
    return tuple(claim.to_bytes() for claim in made)


def heads() -> tuple[bytes, ...]:
    """A head that both have signed, and one without the aggregator's signature."""
    signature = sign_head(SIGNING_KEY, "north", m.LedgerHead("p", 7, h(9)))
    made = (
        SignedHead.of("north", m.LedgerHead("p", 7, h(9)), signature, counter)
        for counter in (s(1), None)
    )
    return tuple(head.to_bytes() for head in made)


def leaves() -> tuple[bytes, ...]:
    """A leaf without its chain."""
    _, chain = make_leaf(ISSUER_KEY, ISSUER, "silo", "clinic-a", ["::1"], 10, NOW)
    end = b"-----END CERTIFICATE-----\n"
    return (chain.partition(end)[0] + end,)


# ------------------------------------------------------------------------------ ledgers

POPULATION = "ward 7, Zoë's records"
_CHARTER, _STATE, _CTX, _CTX2, _DIGEST = (f"{n:064x}" for n in range(1, 6))
_PLAN = DpPlan(
    sample_rate=0.05,
    noise_multiplier=1.0,
    clip=1.0,
    expected_batch=64,
    local_steps=8,
    rounds=3,
    delta=1e-6,
    evaluation=EvaluationPlan(clip=10.0, noise_multiplier=8.0, expected=40),
)


def _intent(round: int) -> pl.Intent:
    return pl.Intent.of(
        _PLAN,
        charter=_CHARTER,
        run="winter",
        round=round,
        state_digest=_STATE,
        weight=1,
        dtype="float32",
    )


def ledger_events() -> tuple[pl.Event, ...]:
    """A ledger's events with one at least of every kind."""
    opened = pl.Opened(
        silo="north",
        identity="0a" * 32,
        population=POPULATION,
        adjacency="zero-out",
        delta=1e-6,
        cap_epsilon=None,
        filter_order=4.0,
        fingerprints="0b" * 32,
        software="fedit-secure 0.1.0",
    )
    released = pl.Released(
        charter=_CHARTER,
        round=1,
        release_digest=_DIGEST,
        state_digest=_STATE,
        contributors=("north", "south"),
        sum_digest=_DIGEST,
    )
    return (
        opened,
        pl.CapChanged(cap_epsilon=9.5, reason="more", signature="0" * 128),
        _intent(1),
        pl.Committed(charter=_CHARTER, round=1, update_digest=_DIGEST),
        pl.Masked(ctx=_CTX),
        pl.Voided(ctx=_CTX),
        pl.Renewed(ctx=_CTX, certificate=_DIGEST),
        pl.Masked(ctx=_CTX2),
        pl.Revealed(ctx=_CTX2),
        released,
        _intent(2),
        pl.Aborted(charter=_CHARTER, round=2, reason="withheld"),
        pl.DataVersion(old="0b" * 32, new="0c" * 32),
        pl.KeyRotated(old="0a" * 32, new="0d" * 32, signature="1" * 128),
        pl.AuditRun(
            records="public",
            data_digest=_DIGEST,
            sample_rate=1.0,
            noise_multiplier=0.5,
            clip=1.0,
            expected_batch=8,
            steps=2**53 - 1,
        ),
    )


def ledgers() -> tuple[bytes, ...]:
    """That ledger, its beginning, and its opening alone; one entry a line."""
    entries = tuple(event.to_bytes() for event in ledger_events())
    return tuple(b"\n".join(entries[:n]) for n in (len(entries), 7, 1))


# ------------------------------------------------------------------- states and tensors


def states() -> tuple[bytes, ...]:
    """States of two tensors, of none, and at the grid's edges."""
    values = np.array([(-1) ** i * i**9 for i in range(14)], np.int64)
    edges = np.array([2**53 - 1, 1 - 2**53, 0], np.int64)
    made = (
        GridState(("layer.lora_A", "layer.lora_B"), ((2, 3), (4, 2)), values),
        GridState((), (), np.zeros(0, np.int64), 0),
        GridState(("Zoë",), ((3, 1),), edges, 52),
    )
    return tuple(state.to_bytes() for state in made)


def lives() -> tuple[bytes, ...]:
    """A fresh silo's life, and one with a past."""
    lived = Life(
        3, 2, "revealed", h(1), h(2), frozenset({h(3), h(4)}), frozenset({h(1)})
    )
    return Life().to_bytes(), lived.to_bytes()


LENGTH = 6


OWN_LAYOUT = (("q.lora_B.weight", (3, 2)), ("v.lora_B.weight", (2, 2)))


def own_b() -> tuple[bytes, ...]:
    """The file of a silo's own B."""
    origin = Origin(
        federation="north",
        epoch=2,
        charter="ab" * 32,
        silo="clinic-a",
        population="patients",
        round=3,
    )
    return (packed(origin, OWN_LAYOUT, np.arange(10, dtype=np.float32)),)


def tensors() -> tuple[bytes, ...]:
    """The adapter's state as the daemon hands it to its tuning job."""
    return (save({"adapter": np.arange(LENGTH, dtype=np.float32)}),)


# --------------------------------------------------------------------------------- YAML

CONFIGS = {
    "silo": b"""\
name: clinic-a
identity: keys
state: /var/lib/fedit
charter: charter.json
approval: clinic-a.approval
policy: policy.yaml
model: base
threads: 2
data:
  path: records.jsonl
  columns:
    response: answer
""",
    "policy": b"""\
epsilon: 8
delta: 1.0e-6
epsilon_per_run: 4
windows:
  - {days: 90, epsilon: 4}
hours: {from: "20:00", until: "06:00", zone: UTC}
minimum_silos: 3
allowed_base_models: any
max_local_steps: 200
tell_record_count: true
""",
    "plan": b"""\
federation: north
run: first
aggregator: hub.example.org:7443
base_model: ./base
rounds: 3
expires: 2027-01-31
tuning:
  learning_rate: 1e-3
  local_steps: 8
dp:
  epsilon: 8
  delta: 1e-6
  expected_batch: {clinic-a: 64, clinic-b: 128}
""",
    "aggregator": b"""\
identity: keys
state: /var/lib/fedit
charter: charter.json
approvals: approvals
initial_state: initial.state
listen: 0.0.0.0:7443
hostnames: [hub.example.org]
log_level: info
""",
    "simulation": b"""\
base_model: ./base
data:
  clinic-a:
    path: a.jsonl
  clinic-b:
    path: b.jsonl
output: out
tuning:
  learning_rate: 1e-3
  local_steps: 8
rounds: 3
dp:
  epsilon: 8
  delta: 1e-6
  expected_batch: 64
weights: {clinic-a: 3, clinic-b: 5}
""",
}
