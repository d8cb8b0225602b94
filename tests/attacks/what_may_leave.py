"""Every field of every message, ledger entry, event and file, and what it may depend on.

A field that isn't here fails the tests: whoever adds one has to say what it is.

PUBLIC  follows from the charter, from what others said and from what was public before.
RANDOM  was drawn. Two runs draw the same here, so it is compared like a public one.
BOUND   rests, through ctx and K, on the global state and the ledgers' heads: on sums that
        were published, and on the two keyed digests. It is compared as long as these are
        the same.
KEYED   a digest under the silo's signature key: of its records (`fingerprints`) or of its
        noised update. Nobody without the key can tell it from random bytes.
UPDATE  the masked update, and what is computed from those masked bytes alone.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterator
from typing import Any

from attacks.seen import Fetch
from pydantic import BaseModel

from fedit_secure.privacy import events
from fedit_secure.secagg import messages as m
from fedit_secure.wire import frames as f
from fedit_secure.wire.codec import PublishedNotice

PUBLIC, RANDOM, BOUND, KEYED, UPDATE = "public", "random", "bound", "keyed", "update"


def fields(
    public: str = "",
    random: str = "",
    bound: str = "",
    keyed: str = "",
    update: str = "",
) -> dict[str, str]:
    """The class of every field: their names, with spaces between."""
    classes = {
        PUBLIC: public,
        RANDOM: random,
        BOUND: bound,
        KEYED: keyed,
        UPDATE: update,
    }
    return {name: of for of, names in classes.items() for name in names.split()}


def entry(public: str = "", bound: str = "", keyed: str = "") -> dict[str, str]:
    """As `fields`, of a ledger entry."""
    return fields(f"kind version {public}", bound=bound, keyed=keyed)


FIELDS: dict[type, dict[str, str]] = {
    # What a silo and the aggregator say beside the protocol.
    f.Hello: fields(
        public="silo charter wire_version package_version round ledger_sequence",
        bound="state_digest",
    ),
    f.Welcome: fields(public="approvals round", bound="state_digest"),
    f.CannotServe: fields(public="reason exit_status"),
    f.RoundOffer: fields(public="approvals"),
    f.LedgerEntries: fields(public="first", bound="signature"),
    f.HeadReceipt: fields(bound="signature"),
    f.Ready: fields(public="round"),
    f.Phase: fields(public="round name"),
    f.Withdraw: fields(public="round attempt reason"),
    f.Refused: fields(public="round reason"),
    f.RunEnded: fields(public="round", bound="state_digest"),
    # Epsilons follow from the plan and the number of charges, the rest from the head.
    f.Claim: fields(bound="document"),
    Fetch: fields(bound="address"),
    # The messages of a release.
    m.LedgerHead: fields(public="population sequence", bound="hash"),
    m.Offer: fields(public="charter round attempt", bound="state_digest signature"),
    m.Advert: fields(
        public="silo",
        random="mask_key envelope_key",
        bound="ctx self_commitment group_commitment signature",
    ),
    m.AdvertSet: fields(bound="ctx signature"),
    m.ShareStatement: fields(
        public="dealer holders",
        bound="ctx key_set envelope_hashes self_commitments key_commitments signature",
    ),
    m.ShareBundle: fields(bound="envelopes"),
    m.ShareSet: fields(bound="ctx key_set envelopes signature"),
    m.UploadHeader: fields(
        public="silo length",
        bound="ctx key_set dealers_digest",
        update="payload_digest signature",
    ),
    m.MaskedUpload: fields(update="payload"),
    m.UploadAck: fields(public="silo", bound="ctx", update="header_digest signature"),
    m.SurvivorSet: fields(bound="ctx", update="signature"),
    m.Agreement: fields(
        public="silo",
        bound="ctx key_set dealers_digest survivors_digest",
        update="headers_digest signature",
    ),
    m.AgreementSet: fields(bound="ctx"),
    m.Reveal: fields(
        public="silo", random="self_shares key_shares", bound="ctx signature"
    ),
    PublishedNotice: fields(
        public="contributors", bound="ctx key_set total_address tag signature"
    ),
    m.Confirmation: fields(
        public="silo charter round", bound="state_digest release_digest signature"
    ),
    m.VoidRequest: fields(bound="ctx signature"),
    m.VoidStatement: fields(public="silo", bound="ctx signature"),
    m.VoidCertificate: fields(bound="ctx"),
    m.SkipRequest: fields(public="charter round", bound="state_digest signature"),
    m.RoundCertificate: fields(public="round"),
    # The ledger's entries, which are sent to the aggregator.
    events.Opened: entry(
        public=(
            "silo identity population unit adjacency delta cap_epsilon filter_order "
            "software"
        ),
        keyed="fingerprints",
    ),
    events.Intent: entry(
        public=(
            "charter run round dp sample_rate noise_multiplier clip expected_batch "
            "steps charges weight unit sizes dtype evaluation"
        ),
        bound="state_digest",
    ),
    events.Committed: entry(public="charter round", keyed="update_digest"),
    events.Masked: entry(bound="ctx"),
    events.Revealed: entry(bound="ctx"),
    events.Voided: entry(bound="ctx"),
    events.Renewed: entry(bound="ctx certificate"),
    events.Released: entry(
        public="charter round contributors",
        bound="release_digest state_digest sum_digest",
    ),
    events.Aborted: entry(public="charter round reason"),
    # Says that the records were changed between two starts: the one thing about them that
    # a ledger tells, and no run of one data set writes it.
    events.DataVersion: entry(keyed="old new"),
    # That two populations share records or persons is told by the operator's signature
    # and by nothing else: which they are, and how many, stays with the silo.
    events.Inherited: entry(
        public="source sequence unit filter_order charges lost reason",
        bound="hash signature",
    ),
    events.Lost: entry(public="epsilon reason", bound="signature"),
    # What an operator orders, without a look at the records.
    events.CapChanged: entry(public="cap_epsilon reason signature"),
    events.KeyRotated: entry(public="old new signature"),
    events.AuditRun: entry(
        public=(
            "records data_digest sample_rate noise_multiplier clip expected_batch steps"
        )
    ),
}

# What `--format json` prints, a line each, and what a worker tells its daemon.
PRINTED = {"round": PUBLIC, "silo": PUBLIC, "phase": PUBLIC, "run": PUBLIC} | {
    "state": BOUND
}
# The sums of the update, and of what the silo keeps, stay on the machine: they are how the
# daemon checks the pipe.
# The figure of what is held out is for the silo's operator, and stays, too.
OWN = "own"
TOLD = {"phase": PUBLIC, "step": PUBLIC, "of": PUBLIC, "length": PUBLIC} | {
    "sha256": UPDATE,
    **dict.fromkeys(("nll", "units", "unscored"), OWN),
}

# What the aggregator writes. Entries and frames are those that it received or sent.
FILES = {
    "charter.json": PUBLIC,
    "progress.json": PUBLIC,
    "metrics.jsonl": PUBLIC,  # but for lines of the phase "evaluation": they are BOUND
    "manifest.json": BOUND,
    "approvals/*.approval": PUBLIC,
    "ledgers/*.jsonl": "entries",
    "ledgers/*.head": BOUND,
    "claims/*.claim": "claim",
    "rounds/*/*.frame": "frame",
    "rounds/*/sum.int32": BOUND,
    "states/*.state": BOUND,
    "adapter/adapter_config.json": PUBLIC,
    "adapter/adapter_model.safetensors": BOUND,
    "rounds/*/adapter/adapter_config.json": PUBLIC,
    "rounds/*/adapter/adapter_model.safetensors": BOUND,
}

# A silo's status.json, for its own operator. All of it stays in the silo. What says when
# something was tells how long tuning took, and so may depend on the records; nothing else.
TIMES, PROCESS = "times", "process"
STATUS = {
    "role daemon.name daemon.version daemon.state daemon.why": PUBLIC,
    "daemon.pid": PROCESS,
    "daemon.started daemon.at now.since now.deadline connection_since": TIMES,
    "run.federation run.epoch run.name run.charter run.expires run.rounds": PUBLIC,
    "run.certified now.round now.phase now.attempt now.step now.steps": PUBLIC,
    "aggregator connected charges planned run_epsilon": PUBLIC,
    "caps.covers caps.delta caps.spent caps.limit": PUBLIC,
    "head.silo head.population head.entries": PUBLIC,
    "head.hash rounds.state rounds.nll rounds.nll_deviation": BOUND,
    "rounds.own_nll": OWN,
    "rounds.round rounds.outcome rounds.adapter rounds.contributors": PUBLIC,
    "rounds.seconds": TIMES,
    "certificates.party certificates.role certificates.kind": PUBLIC,
    "certificates.ends": TIMES,
    "traffic.sent traffic.received": PUBLIC,
}


def status_classes() -> dict[str, str]:
    """The class of every field of a silo's status file."""
    return {name: of for names, of in STATUS.items() for name in names.split()}


def status_fields(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a status file with their places, in order."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from status_fields(inner, f"{at}.{name}" if at else name)
    elif at in ("caps", "certificates", "head", "rounds"):
        for part in value or ():
            yield from status_fields(part, at)
    else:
        yield at, value


Leaf = tuple[str, str, Any]  # "Type.field", its class, its value


def leaves(value: Any, victim: int) -> Iterator[Leaf]:
    """All fields of a message and of the messages and ledger entries in it, in order.

    Masked bytes of other silos than `victim` are as good as bound ones.
    """
    kind = type(value)
    assert kind in FIELDS, f"{kind.__name__} is in no table: may it leave a silo?"
    table = dict(FIELDS[kind])
    if kind in (m.UploadHeader, m.UploadAck) and value.silo != victim:
        table = {name: BOUND if of == UPDATE else of for name, of in table.items()}
    if kind is m.MaskedUpload and value.header.silo != victim:
        table = {"payload": BOUND}
    for name in names_of(kind):
        field = getattr(value, name)
        where = f"{kind.__name__}.{name}"
        if kind is f.LedgerEntries and name == "entries":
            for entry in field:
                yield from leaves(events.decode(entry), victim)
        elif name in table:
            yield where, table[name], field
        else:
            parts = field if isinstance(field, tuple) else (field,)
            for part in parts:
                if part is not None:
                    yield from leaves(part, victim)


def names_of(kind: type) -> list[str]:
    """The fields of a message or of a ledger entry."""
    if issubclass(kind, BaseModel):
        return list(kind.model_fields)
    return [field.name for field in dataclasses.fields(kind) if field.init]


def class_of(name: str) -> str | None:
    """What a file of the run folder is; None if it's in no table."""
    depth = name.count("/")
    fitting = (
        of
        for pattern, of in FILES.items()
        if fnmatch.fnmatchcase(name, pattern) and pattern.count("/") == depth
    )
    return next(fitting, None)
