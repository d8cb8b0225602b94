"""Write the vectors of the secure aggregation, or with --check see that they are current.

`make vectors` runs it. One file per step under secagg/; README.md describes them. All of
it follows from names (world.py), so the same code writes the same bytes everywhere.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from vectors import bad_at_aggregator, bad_at_silo, cases_of_functions, good_cases
from vectors.notation import dump, read, shortened
from vectors.story import Story
from vectors.world import World, setting

from fedit_secure.secagg.messages import Signed

FOLDER = Path(__file__).parent / "secagg"
# Each file, what it is about, and the kinds of messages that stand in it.
FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "transcript": ("Integers, joined fields and labelled digests.", ()),
    "context": ("The codec digest and ctx.", ()),
    "params": ("Thresholds and sizes, and what is refused.", ()),
    "encoding": ("Floats as integers of the ring, and their packed bytes.", ()),
    "keys": ("X25519 public keys that are accepted and refused.", ()),
    "tag": ("Mask streams and the verifiable sum, over two rows.", ()),
    "advertise": ("Step 1: keys, commitments and ledger heads.", ("offer", "advert")),
    "share": ("Step 2: Shamir's shares, envelopes, commitments.", ("u1", "bundle")),
    "mask": ("Step 3: seeds, streams, tags and masked vectors.", ("u2", "upload")),
    "acknowledge": ("After step 3: the aggregator holds an upload.", ("ack",)),
    "agree": ("Step 4: the one set of survivors.", ("u3", "agreement")),
    "reveal": ("Step 5: one share per peer.", ("quorum", "reveal")),
    "release": ("Step 6: recovery, the sum and its tag.", ("published",)),
    "confirm": ("Step 7: words, and certificates.", ("confirmation", "certificate")),
    "void": ("An attempt that is closed for good.", ("void",)),
}


def contents() -> dict[str, dict[str, Any]]:
    """What each file holds, by its name."""
    at = setting()
    story = Story(World(at))
    messages = good_cases.written(story)
    cases = good_cases.of_silos(story) + good_cases.of_the_aggregator(story)
    cases += good_cases.beside(story, messages)
    cases += bad_at_silo.cases(story, messages)
    cases += bad_at_aggregator.cases(story, messages)
    functions = {
        "transcript": cases_of_functions.transcript(),
        "context": cases_of_functions.context(at),
        "params": cases_of_functions.params(),
        "encoding": cases_of_functions.encoding(),
        "keys": cases_of_functions.keys(),
        "tag": cases_of_functions.tags(),
        "share": cases_of_functions.sharing(),
        "confirm": cases_of_functions.skipped(at),
    }
    found: dict[str, dict[str, Any]] = {"setting": at}
    for file, (about, kinds) in FILES.items():
        here = {n: x for n, x in messages.items() if n.partition(" ")[0] in kinds}
        parts: dict[str, Any] = {"about": about}
        if here:
            read_here = {name: read(message) for name, message in here.items()}
            parts["messages"] = shortened(here)
            parts["signed_digests"] = {
                name: message.signed_digest().hex()
                for name, message in read_here.items()
                if isinstance(message, Signed)
            }
        mine = [case for where, case in cases if where == file]
        found[file] = {**parts, "cases": functions.get(file, []) + mine}
    return found


def files() -> dict[str, bytes]:
    """The bytes of each file below FOLDER."""
    return {f"{k}.json": f"{dump(x)}\n".encode() for k, x in contents().items()}


def main(arguments: list[str]) -> None:
    """Write, or with --check end with status 1 on a difference."""
    if arguments not in ([], ["--check"]):
        raise SystemExit("usage: generate.py [--check]")
    made = files()
    there = {path.name: path.read_bytes() for path in FOLDER.glob("*.json")}
    if arguments:
        names = (name for name in made | there if made.get(name) != there.get(name))
        if stale := sorted(names):
            raise SystemExit(f"{', '.join(stale)} differ: run `make vectors`")
        return
    FOLDER.mkdir(exist_ok=True)
    for name in there.keys() - made.keys():
        (FOLDER / name).unlink()
    for name, data in made.items():
        (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    main(sys.argv[1:])
