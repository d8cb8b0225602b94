"""What a power cut leaves of a folder: a model of a disk that keeps as little as it may.

It is fed the calls that a process made. What was written to a file is safe once that file
was synced, and a name (made, moved or removed) once its folder was. At a cut, what is
not safe is lost, or kept in part: sectors of a file in any choice, for a disk writes them
in any order; the names of a folder up to some point, for they are in a log.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from faults.syscalls import Call, Kind

SECTOR = 512
Name = tuple[str, "Node | None"]  # a name's new meaning; None: there is no such name


@dataclass(eq=False)
class Node:
    """A file, or a folder: what is safe of it, and what has happened since. A file's
    changes are (offset, bytes) or (length, None), a truncation."""

    folder: bool = False
    safe: bytearray = field(default_factory=bytearray)
    changes: list[tuple[int, bytes | None]] = field(default_factory=list)
    names: dict[str, Node] = field(default_factory=dict)
    renamed: list[tuple[Name, ...]] = field(default_factory=list)  # each all or nothing

    def sync(self) -> None:
        """Everything is safe."""
        for change in self.changes:
            _write(self.safe, *change)
        for step in self.renamed:
            _rename(self.names, step)
        self.changes, self.renamed = [], []

    def now(self) -> dict[str, Node]:
        """The names that the process sees."""
        names = dict(self.names)
        for step in self.renamed:
            _rename(names, step)
        return names


class Disk:
    """The folder `top`, empty at first; `top` itself is safe."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self._root = Node(folder=True)
        self._open: dict[int, Node] = {}

    def restart(self) -> None:
        """The process is gone, and nothing else."""
        self._open = {}

    def feed(self, calls: Iterable[Call]) -> None:
        """More of what the process did."""
        for call in calls:
            self.take(call)

    def take(self, call: Call) -> None:
        """One call."""
        if call.kind is Kind.OPEN:
            self._open[call.fd] = self._opened(call.one, call.at)
        elif call.kind is Kind.CLOSE:
            del self._open[call.fd]
        elif call.kind is Kind.WRITE:
            self._open[call.fd].changes.append((call.at, call.one))
        elif call.kind is Kind.TRUNCATE:
            self._open[call.fd].changes.append((call.at, None))
        elif call.kind is Kind.SYNC:
            self._open[call.fd].sync()
        elif call.kind in (Kind.RENAME, Kind.LINK, Kind.UNLINK, Kind.MKDIR, Kind.RMDIR):
            self._name(call)

    def _opened(self, path: bytes, flags: int) -> Node:
        if os.fsdecode(path) == str(self.top):
            return self._root
        folder, name = self._at(path)
        node = folder.now().get(name)
        if node is None:
            node = Node()
            folder.renamed.append(((name, node),))
        elif flags & os.O_TRUNC:
            node.changes.append((0, None))
        return node

    def _name(self, call: Call) -> None:
        folder, name = self._at(call.one)
        if call.kind is Kind.MKDIR:
            folder.renamed.append(((name, Node(folder=True)),))
        elif call.kind in (Kind.UNLINK, Kind.RMDIR):
            folder.renamed.append(((name, None),))
        else:
            beside, other = self._at(call.two)
            assert beside is folder, "a name that moves to another folder"
            node = folder.now()[name]
            gone: tuple[Name, ...] = ((name, None),) * (call.kind is Kind.RENAME)
            folder.renamed.append(((other, node), *gone))

    def _at(self, path: bytes) -> tuple[Node, str]:
        *above, name = Path(os.fsdecode(path)).relative_to(self.top).parts
        node = self._root
        for part in above:
            node = node.now()[part]
        return node, name

    # --------------------------------------------------------------------------- the cut

    def cut(self, chance: Random | None) -> Disk:
        """The disk after a cut. Without `chance`, all that isn't safe is lost."""
        after = Disk(self.top)
        after._root = _left(self._root, chance, {})
        return after

    def saved(self) -> Disk:
        """The disk after an orderly end: everything is kept."""
        after = Disk(self.top)
        after._root = _left(self._root, None, {}, whole=True)
        return after

    def write_to(self, top: Path) -> None:
        """Lay what is safe out in another folder, in place of what is there."""
        shutil.rmtree(top, ignore_errors=True)
        top.mkdir(parents=True)
        for path, node in _walk(self._root):
            if node.folder:
                (top / path).mkdir()
            else:
                (top / path).write_bytes(node.safe)

    def files(self) -> dict[str, bytes]:
        """What is safe, by path below the top."""
        return {p: bytes(n.safe) for p, n in _walk(self._root) if not n.folder}


def _left(
    node: Node, chance: Random | None, done: dict[Node, Node], *, whole: bool = False
) -> Node:
    if node in done:
        return done[node]
    left = done[node] = Node(node.folder, bytearray(node.safe))
    for at, data in node.changes:
        for change in _sectors(at, data):
            if whole or (chance is not None and chance.random() < 0.5):
                _write(left.safe, *change)
    names, kept = dict(node.names), len(node.renamed)
    if not whole:
        kept = chance.randint(0, kept) if chance is not None else 0
    for step in node.renamed[:kept]:
        _rename(names, step)
    left.names = {
        n: _left(below, chance, done, whole=whole) for n, below in names.items()
    }
    return left


def _sectors(at: int, data: bytes | None) -> Iterator[tuple[int, bytes | None]]:
    if data is None:
        yield at, None
        return
    start = 0
    while start < len(data):
        end = min(len(data), start + SECTOR - (at + start) % SECTOR)
        yield at + start, data[start:end]
        start = end


def _write(content: bytearray, at: int, data: bytes | None) -> None:
    if len(content) < at:
        content.extend(bytes(at - len(content)))
    if data is None:
        del content[at:]
    else:
        content[at : at + len(data)] = data


def _rename(names: dict[str, Node], step: tuple[Name, ...]) -> None:
    for name, node in step:
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _walk(folder: Node, below: str = "") -> Iterator[tuple[str, Node]]:
    for name, node in sorted(folder.names.items()):
        yield f"{below}{name}", node
        if node.folder:
            yield from _walk(node, f"{below}{name}/")
