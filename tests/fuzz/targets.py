"""Every parser of bytes that others wrote, and what must hold whatever they wrote.

An input is either refused, by an error of the documented class whose text is one short
printable line, or read; and what was read is written to the same bytes again (frames,
whose encoding isn't canonical: to equal frames of the same size). Nothing else comes
out, and memory stays within a multiple of the input.
"""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from fuzz import damage_json, damage_more, damage_proto, samples
from fuzz.damage import BYTES, Mutator, flip, insert, splice, truncate
from wire_samples import HEADER, LIMITS

from fedit_secure.config import (
    load_aggregator_config,
    load_plan,
    load_policy,
    load_silo_config,
    load_simulation,
)
from fedit_secure.errors import (
    ConfigError,
    ConnectError,
    FaultySiloOrAggregator,
    MalformedMessage,
    PolicyRefusal,
    StorageError,
)
from fedit_secure.federation.approval import Approval, ApprovedEpoch, verify_approval
from fedit_secure.federation.card import Card
from fedit_secure.federation.certificates import check_issuer, check_leaf
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.claim import Claim
from fedit_secure.federation.heads import SignedHead, check_head
from fedit_secure.federation.update import GridState
from fedit_secure.privacy import events, ledger
from fedit_secure.silo.personal_file import unpacked
from fedit_secure.storage.life import Life
from fedit_secure.tuning.job_loading import read_state
from fedit_secure.wire import bulk
from fedit_secure.wire import frames as f
from fedit_secure.wire.codec import decode, decode_from_silo, encode
from fedit_secure.wire.pb import federation_pb2 as pb

TEXT = 700  # characters of an error's text
SLACK = 256 * 1024  # bytes of memory for any input, beside a multiple of its size


@dataclass(frozen=True)
class Target:
    """One parser.

    `refuses` holds the exact classes of its errors: a subclass (UnicodeError is a
    ValueError) would be news. `write` is None where nothing writes the format.
    `factor` bounds the memory by the input's size.
    """

    name: str
    samples: tuple[bytes, ...]
    parse: Callable[[bytes], Any]
    refuses: tuple[type[Exception], ...]
    mutators: tuple[Mutator, ...]
    write: Callable[[Any], bytes] | None = None
    canonical: bool = True
    factor: int = 32


def tried(target: Target, data: bytes, *, measured: bool = False) -> bool:
    """Whether the parser takes these bytes; AssertionError if a rule is broken."""
    value, error = None, None
    if measured:
        tracemalloc.start()
    try:
        value = target.parse(data)
    except target.refuses as refused:
        error = refused
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    most = target.factor * len(data) + SLACK
    assert peak <= most, f"{peak} bytes of memory for {len(data)} bytes"
    if error is not None:
        text = str(error)
        assert type(error) in target.refuses, f"a {type(error).__name__}: {error}"
        assert text, "an error without a text"
        assert text.isprintable(), f"not one printable line: {text[:300]!r}"
        assert len(text) <= TEXT, f"{len(text)} characters: {text[:300]!r}"
        return False
    if target.write is not None:
        again = target.write(value)
        if target.canonical:
            assert again == data, "read, and written to other bytes"
        else:
            assert len(again) == len(data), "read, but not all of it"
            assert target.parse(again) == value, "read, written, and read otherwise"
    return True


# --------------------------------------------------------------------------------- wire


def _receipt(data: bytes) -> f.HeadReceipt:
    frame = decode(data, LIMITS, frozenset({f.HeadReceipt}))
    assert isinstance(frame, f.HeadReceipt)
    check_head("north", samples.SIGNING_KEY.public, frame.head, frame.signature)
    return frame


def _blob(data: bytes) -> bytes:
    reader = bulk.BlobReader(len(samples.BLOB))
    reader.add(data)
    return reader.whole()


def _wire(
    name: str,
    kind: Any,
    given: tuple[bytes, ...],
    parse: Callable[[bytes], Any],
    write: Callable[[Any], bytes],
    refuses: tuple[type[Exception], ...] = (MalformedMessage,),
) -> Target:
    near = damage_proto.message(kind.DESCRIPTOR)
    mutators = (*BYTES, *(near,) * len(BYTES))
    return Target(name, given, parse, refuses, mutators, write, canonical=False)


WIRE = (
    _wire("frame", pb.Envelope, samples.WIRE, lambda d: decode(d, LIMITS), encode),
    _wire(
        "frame of a silo",
        pb.Envelope,
        samples.WIRE_OF_SILOS,
        lambda d: decode_from_silo(d, LIMITS),
        encode,
    ),
    _wire(
        "head receipt",
        pb.Envelope,
        samples.receipts(),
        _receipt,
        encode,
        (MalformedMessage, FaultySiloOrAggregator),
    ),
    _wire(
        "upload header",
        pb.UploadChunk,
        (samples.UPLOAD,),
        lambda d: bulk.upload_header(d, LIMITS),
        bulk.upload_start,
    ),
    _wire(
        "upload chunk",
        pb.UploadChunk,
        samples.CHUNKS,
        lambda d: bulk.upload_data(d, 0, len(samples.PAYLOAD)),
        lambda got: bulk.upload_chunk(0, got[0], tell=got[1]),
    ),
    _wire(
        "upload state",
        pb.UploadState,
        samples.UPLOAD_STATES,
        lambda d: bulk.upload_held(d, HEADER, whole=False),
        bulk.upload_state,
    ),
    _wire(
        "fetch request",
        pb.FetchRequest,
        (samples.FETCH,),
        bulk.fetch_address,
        bulk.fetch_request,
    ),
    _wire(
        "blob",
        pb.BlobChunk,
        samples.BLOBS,
        _blob,
        lambda blob: next(bulk.blob_chunks(blob)),
    ),
)

# ---------------------------------------------------------------------------- documents

_JSON = (damage_json.document(2, b"\n"),) * len(BYTES)
_LINE = (damage_json.document(None, b""),) * len(BYTES)
_ISSUER = damage_more.certificate(samples.ISSUER_KEY)
_IN_DOCUMENT = (damage_more.in_document(_ISSUER, b"issuer_certificate"),) * 4
_GOLDEN = samples.golden_charter()


def _card(data: bytes) -> Card:
    card = Card.from_bytes(data, "the card")
    card.check()
    return card


def _approval(data: bytes) -> Approval:
    approval = Approval.from_bytes(data, "an approval")
    verify_approval(_GOLDEN, approval)
    return approval


def _document(
    name: str,
    given: tuple[bytes, ...],
    parse: Callable[[bytes], Any],
    *refuses: type[Exception],
    more: tuple[Mutator, ...] = (),
) -> Target:
    mutators = (*BYTES, damage_json.respell, *_JSON, *more)
    # pydantic makes a list of everything that is wrong: an unknown key of six bytes
    # costs some hundreds. The sizes of the files are bounded instead.
    return Target(
        name,
        given,
        parse,
        (ConfigError, *refuses),
        mutators,
        lambda document: document.to_bytes(),
        factor=160,
    )


DOCUMENTS = (
    _document(
        "charter",
        samples.charters(),
        lambda d: Charter.from_bytes(d, "the charter"),
        more=_IN_DOCUMENT,
    ),
    _document("card", samples.cards(), _card, more=_IN_DOCUMENT),
    _document("approval", samples.approvals(), _approval, PolicyRefusal),
    _document(
        "approved epoch",
        samples.approved_epochs(),
        lambda d: ApprovedEpoch.from_bytes(d, "the record"),
    ),
    _document("claim", samples.claims(), lambda d: Claim.from_bytes(d, "the claim")),
    _document("head", samples.heads(), lambda d: SignedHead.from_bytes(d, "the head")),
)
CERTIFICATES = (
    Target(
        "issuer certificate",
        (samples.ISSUER.encode(),),
        lambda d: check_issuer(d.decode(errors="replace")),
        (ConfigError,),
        (*BYTES, *(_ISSUER,) * 20),
        lambda certificate: certificate.public_bytes(Encoding.PEM),
    ),
    Target(
        "leaf certificate",
        samples.leaves(),
        lambda d: check_leaf(d, samples.ISSUER, "silo", "clinic-a", samples.NOW),
        (ConnectError,),
        (*BYTES, *(_ISSUER,) * 20),
    ),
)

# -------------------------------------------------------------------- ledgers and states


def _ledger(data: bytes) -> ledger.Ledger:
    return ledger.Ledger.from_entries(samples.POPULATION, data.split(b"\n"))


def _state(data: bytes) -> GridState:
    state = GridState.from_bytes(data)
    state.digest()
    return state


LEDGERS = (
    Target(
        "ledger entry",
        tuple(event.to_bytes() for event in samples.ledger_events()),
        events.decode,
        (ValueError,),
        (*BYTES, damage_json.respell, *_LINE),
        lambda event: event.to_bytes(),
        factor=160,
    ),
    Target(
        "ledger",
        samples.ledgers(),
        _ledger,
        (ledger.LedgerCorrupt,),
        (*BYTES, *(damage_more.ledger,) * 20),
        lambda kept: b"\n".join(kept.entries),
        factor=160,
    ),
)
STATES = (
    Target(
        "state",
        samples.states(),
        _state,
        (MalformedMessage,),
        (*BYTES, *(damage_more.framed(b"fedit/state/v1\n"),) * 20),
        lambda state: state.to_bytes(),
    ),
    Target(
        "life",
        samples.lives(),
        Life.from_bytes,
        (StorageError,),
        (*BYTES, damage_json.respell, *_LINE),
        lambda life: life.to_bytes(),
    ),
)

# -------------------------------------------------------------------------------- files

_FOLDER = tempfile.TemporaryDirectory(prefix="fedit-fuzz-")


def _through_file(read: Callable[[Path], Any], name: str) -> Callable[[bytes], Any]:
    path = Path(_FOLDER.name) / name

    def parse(data: bytes) -> Any:
        path.write_bytes(data)
        return read(path)

    return parse


_LOADERS = {
    "silo": load_silo_config,
    "policy": load_policy,
    "plan": load_plan,
    "aggregator": load_aggregator_config,
    "simulation": load_simulation,
}
FILES = (
    Target(
        "adapter tensor",
        samples.tensors(),
        _through_file(lambda path: read_state(path, samples.LENGTH), "state"),
        (ConfigError,),
        (*BYTES, *(damage_more.framed(b""),) * 20),
    ),
    Target(
        "own b",
        samples.own_b(),
        lambda data: unpacked(data, samples.OWN_LAYOUT, Path("own.safetensors")),
        (ConfigError,),
        (*BYTES, *(damage_more.framed(b""),) * 20),
    ),
    *(
        Target(
            f"{kind}.yaml",
            (text,),
            _through_file(_LOADERS[kind], f"{kind}.yaml"),
            (ConfigError,),
            (flip, truncate, insert, splice, *(damage_more.yaml,) * 12),
            factor=1500,  # PyYAML keeps a mark of two objects for every token
        )
        for kind, text in samples.CONFIGS.items()
    ),
)

TARGETS = {
    target.name: target
    for target in (*WIRE, *DOCUMENTS, *CERTIFICATES, *LEDGERS, *STATES, *FILES)
}
