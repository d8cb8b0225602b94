"""Write the tables of docs/what-leaves-the-silo.md, or with --check compare them.

The fields and their meaning are those of federation.proto, whose comments protoc hands
over with the compiled descriptor. What a field may depend on is said by the tables that
`tests/attacks/test_what_leaves_a_silo.py` holds whole runs against. So a new field is on
the page, or `make check` fails.
"""

from __future__ import annotations

import re
import sys
import tempfile
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attacks.seen import Fetch
from attacks.what_may_leave import BOUND, FIELDS, KEYED, PUBLIC, RANDOM, UPDATE
from generated_blocks import filled, write_or_check
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    SourceCodeInfo,
)
from grpc_tools import protoc

from fedit_secure.privacy import events
from fedit_secure.secagg import messages as m
from fedit_secure.wire import frames as f
from fedit_secure.wire.codec import BODIES

ROOT = Path(__file__).resolve().parents[1]
SPECIFICATION = ROOT / "protos" / "fedit_secure" / "v1" / "federation.proto"
PAGE = ROOT / "docs" / "what-leaves-the-silo.md"

CLASSES: dict[str, tuple[str, str, str]] = {
    PUBLIC: (
        "public",
        "the charter, what others said, and what was public before",
        "nothing",
    ),
    RANDOM: ("random", "chance alone: it was drawn for this attempt", "nothing"),
    BOUND: (
        "sums",
        "the sums of earlier rounds, which every party has, and the two keyed digests",
        "no more than those sums say. Each silo's noise is in them, so ε bounds it",
    ),
    KEYED: (
        "keyed",
        "a digest of the records, or of the noised update, under the silo's own key",
        (
            "nothing to whoever lacks that key, which never leaves: it can't be told "
            "from random bytes. *That* records have changed can be seen"
        ),
    ),
    UPDATE: (
        "masked",
        "the noised update behind its mask, and what is computed from those bytes",
        (
            "nothing while the masks hold. Without them, what the noised update says: "
            "ε bounds it"
        ),
    ),
}
"""Each class of the tables: its word on the page, what such a field depends on, and what
it could say about a patient."""

OUTSIDE: dict[str, str] = {
    "UploadChunk.offset": PUBLIC,
    "UploadChunk.tell": PUBLIC,
    "UploadChunk.data": FIELDS[m.MaskedUpload]["payload"],
    "SealedEnvelope.silo": PUBLIC,
    "SealedEnvelope.ciphertext": FIELDS[m.ShareBundle]["envelopes"],
    "Share.silo": PUBLIC,
    "Share.share": FIELDS[m.Reveal]["self_shares"],
}
"""The class of fields whose message is no type of its own in the code."""

ENTRIES = "LedgerEntries.entries"  # each by its kind, in a table of its own


@dataclass(frozen=True, slots=True)
class Commented:
    """A message, field or enumerator, with its comment as one line ("": it has none)."""

    name: str
    comment: str


class Specification:
    """federation.proto as protoc compiles it, with its comments."""

    def __init__(self, source: Path = SPECIFICATION) -> None:
        self._file = compiled(source)
        self._comments = {
            tuple(at.path): joined(at) for at in self._file.source_code_info.location
        }
        numbered = enumerate(self._file.message_type)
        self.messages = {message.name: (i, message) for i, message in numbered}
        self._enums = {enum.name: enum for enum in self._file.enum_type}

    def message(self, name: str) -> Commented:
        """A message's comment."""
        index, _ = self.messages[name]
        return Commented(name, self._comments.get((4, index), ""))

    def fields(self, name: str) -> Iterator[tuple[FieldDescriptorProto, Commented]]:
        """The fields of a message in their order."""
        index, message = self.messages[name]
        for place, field in enumerate(message.field):
            comment = self._comments.get((4, index, 2, place), "")
            yield field, Commented(f"{name}.{field.name}", comment)

    def everything(self) -> Iterator[Commented]:
        """All that has to have a comment: messages, fields, enums and enumerators."""
        for name in self.messages:
            yield self.message(name)
            yield from (comment for _, comment in self.fields(name))
        for index, enum in enumerate(self._file.enum_type):
            yield Commented(enum.name, self._comments.get((5, index), ""))
            for place, value in enumerate(enum.value):
                comment = self._comments.get((5, index, 2, place), "")
                yield Commented(f"{enum.name}.{value.name}", comment)

    def inner(self, field: FieldDescriptorProto) -> str | None:
        """The message that a field holds, if it holds one."""
        name = field.type_name.rpartition(".")[2]
        return name if name in self.messages else None

    def values(self, field: FieldDescriptorProto) -> list[str]:
        """The enumerators that a field may hold, as people say them; zero is none."""
        enum: EnumDescriptorProto | None
        enum = self._enums.get(field.type_name.rpartition(".")[2])
        if enum is None:
            return []
        return [value.name.partition("_")[2].lower() for value in enum.value[1:]]

    def bodies(self) -> dict[str, str]:
        """The message of each field of an Envelope."""
        envelope: DescriptorProto = self.messages["Envelope"][1]
        found = ((field.name, self.inner(field)) for field in envelope.field)
        return {name: inner for name, inner in found if inner}


def compiled(source: Path) -> FileDescriptorProto:
    """The descriptor of a .proto file with its comments; SystemExit if protoc refuses."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "set"
        status = protoc.main(
            [
                "protoc",
                f"-I{source.parent}",
                "--include_source_info",
                f"--descriptor_set_out={output}",
                source.name,
            ]
        )
        if status:
            raise SystemExit(f"protoc ended with status {status}")
        return FileDescriptorSet.FromString(output.read_bytes()).file[0]


def joined(at: SourceCodeInfo.Location) -> str:
    """The comments before and after something, in one line."""
    both = f"{at.leading_comments} {at.trailing_comments}"
    return " ".join(both.split())


# -------------------------------------------------------------------- what silos send


def sent_by_silos(specification: Specification) -> list[str]:
    """The messages that a silo sends, and those inside them, as the file orders them."""
    bodies = specification.bodies()
    if missing := set(BODIES) ^ set(bodies):
        raise SystemExit(f"Envelope and the codec differ in {', '.join(missing)}")
    found: set[str] = set()

    def look(name: str) -> None:
        found.add(name)
        for field, _ in specification.fields(name):
            if inner := specification.inner(field):
                look(inner)

    for body, record in BODIES.items():
        if record.of in f.FROM_SILO:
            look(bodies[body])
    look("UploadChunk")
    look("FetchRequest")
    return [name for name in specification.messages if name in found]


def class_of(message: str, field: str) -> str:
    """What a field of a message may depend on.

    Raises SystemExit for one that no table names.
    """
    if (place := f"{message}.{field}") in OUTSIDE:
        return OUTSIDE[place]
    kind = Fetch if message == "FetchRequest" else typed(message)
    of = FIELDS.get(kind, {}).get(field) if kind else None
    if of is None:
        raise SystemExit(f"{place} is in no table of tests/attacks/what_may_leave.py")
    return of


def typed(message: str) -> type | None:
    """The code's own type of a message."""
    found: Any = getattr(m, message, None) or getattr(f, message, None)
    return found if isinstance(found, type) else None


def rows(specification: Specification, name: str) -> Iterator[tuple[str, str, str]]:
    """Field, meaning and class (or where to look) of each field of a message."""
    for field, said in specification.fields(name):
        meaning = said.comment
        if values := specification.values(field):
            meaning += f" ({', '.join(values)})"
        if said.name == ENTRIES:
            where = "[below](#the-privacy-ledger)"
        elif inner := specification.inner(field):
            where = f"see {inner}"
        else:
            where = CLASSES[class_of(name, field.name)][0]
        yield f"`{field.name}`", meaning, where


def entry_kinds() -> list[type]:
    """Every kind of ledger entry."""
    return list(typing.get_args(events.Event))


def named_in_ledger(kind: Any) -> str:
    """What an entry of this kind calls itself."""
    return str(kind.model_fields["kind"].default)


def opening(kind: type) -> str:
    """The first sentence of a kind's docstring."""
    text = " ".join((kind.__doc__ or "").split())
    return re.split(r"(?<=\.) (?=[A-Z`])", text)[0]


# ---------------------------------------------------------------------------- the page


def table(head: tuple[str, ...], lines: Iterator[tuple[str, ...]]) -> str:
    """A table; a bar within a cell is escaped."""
    cells = [head, ("---",) * len(head), *lines]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |"
        for line in cells
    )


def classes_block() -> str:
    """What each word in the last column means."""
    head = ("class", "such a field depends on", "what it could say about a patient")
    return table(head, iter(CLASSES.values()))


def messages_block(specification: Specification) -> str:
    """Every message that a silo sends, field by field."""
    parts = []
    for name in sent_by_silos(specification):
        said = specification.message(name).comment
        fields = table(("field", "meaning", "class"), rows(specification, name))
        parts.append(f"#### {name}\n\n{said}\n\n{fields}")
    return "\n\n".join(parts)


def entries_block() -> str:
    """Every kind of ledger entry, and its fields by class."""

    columns = (PUBLIC, BOUND, KEYED)

    def named(kind: type, of: str) -> str:
        if none := set(FIELDS[kind].values()) - {*columns}:
            raise SystemExit(f"{kind.__name__} has a field that is {none}: no column")
        chosen = (name for name, its in FIELDS[kind].items() if its == of)
        kept = (f"`{name}`" for name in chosen if name not in ("kind", "version"))
        return ", ".join(kept)

    head = ("entry", "what it records", *(CLASSES[of][0] for of in columns))
    return table(
        head,
        (
            (
                f"`{named_in_ledger(kind)}`",
                opening(kind),
                *(named(kind, of) for of in columns),
            )
            for kind in entry_kinds()
        ),
    )


def depends_block(specification: Specification) -> str:
    """The fields that two data sets of one silo would make differ before any sum."""
    lines: dict[str, list[str]] = {KEYED: [], UPDATE: []}
    for name in sent_by_silos(specification):
        for field, said in specification.fields(name):
            if specification.inner(field) or said.name == ENTRIES:
                continue
            if (of := class_of(name, field.name)) in lines:
                lines[of].append(f"`{said.name}`")
    for kind in entry_kinds():
        for field, of in FIELDS[kind].items():
            if of in lines:
                lines[of].append(f"`{named_in_ledger(kind)}.{field}`")
    return "\n".join(f"- {CLASSES[of][0]}: {', '.join(x)}" for of, x in lines.items())


def current(text: str) -> str:
    """The page with everything in it that is generated now."""
    specification = Specification()
    if bare := [x.name for x in specification.everything() if not x.comment]:
        raise SystemExit(f"federation.proto doesn't say what {bare[0]} is")
    blocks = {
        "depends": depends_block(specification),
        "classes": classes_block(),
        "messages": messages_block(specification),
        "entries": entries_block(),
    }
    return filled(text, blocks, "what-leaves", "docs/what-leaves-the-silo.md")


def main(arguments: list[str]) -> None:
    """Write the page, or with --check end with status 1 on a difference."""
    write_or_check(
        arguments,
        PAGE,
        current,
        script="what_leaves.py",
        stale=(
            "docs/what-leaves-the-silo.md doesn't show what the wire format and the"
            " tables of tests/attacks/what_may_leave.py say: run `make what-leaves`"
        ),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
