"""Tests that a document names: `tests/a/test_b.py::test_c` or `...::test_c[case]`."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)(?:\[(.+)\])?")


def file_of(test: str) -> Path:
    """Where a test is; fails unless it, and the case in brackets, are there."""
    parts = TEST.fullmatch(test)
    assert parts, f"{test!r} is no test's name"
    path, function, case = parts.groups()
    assert (ROOT / path).is_file(), test
    known = known_in(path)
    assert function in known, test
    assert case is None or case in known[function], test
    return ROOT / path


@cache
def known_in(path: str) -> dict[str, set[str]]:
    """The tests of a file, each with the names that its cases may have: literals of its
    decorators, and the keys and members of what these mention by name."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    tables: dict[str, ast.expr] = {}
    for node in tree.body:
        target = getattr(node, "targets", [getattr(node, "target", None)])[0]
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and value is not None:
            tables[target.id] = value
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            cases: set[str] = set()
            for decorator in node.decorator_list:
                cases |= _names_in(decorator, tables)
            found[node.name] = cases
    return found


def _names_in(tree: ast.AST, tables: dict[str, ast.expr]) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
        elif isinstance(node, ast.Name) and node.id in tables:
            table = tables[node.id]
            if isinstance(table, ast.Dict):
                keys = (
                    key.value for key in table.keys if isinstance(key, ast.Constant)
                )
                names.update(str(key) for key in keys)
            elif isinstance(table, ast.List | ast.Tuple):
                names |= _names_in(table, {})
    return names
