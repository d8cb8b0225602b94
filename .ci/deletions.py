"""What a check of the trusted core is, and every way to leave one out of a file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

CHECKING_MODULE = "checks"
CHECKING_METHODS = ("check", "verify")  # and what starts with one of these
Node = ast.stmt | ast.expr
Deletion = tuple[Node, str, Node]  # a node, what is gone, and what stands there then


@dataclass(frozen=True)
class Mutant:
    """One file without one check, which stands on these lines in this function."""

    path: Path
    first: int
    last: int
    function: str
    gone: str
    source: str

    @property
    def name(self) -> str:
        """Stable while the check stays as it is, wherever its function stands."""
        return f"{self.path.name}: {self.function}: {self.gone}"


def mutants_of(path: Path, text: str) -> Iterator[Mutant]:
    """Every mutant of one file, in the order of its lines."""
    found = []
    for function, node in _walk(ast.parse(text), ""):
        for old, gone, new in (*of_statement(node), *of_expression(node)):
            lines = (old.lineno, old.end_lineno or old.lineno)
            head, *more = gone.splitlines()
            short = f"{head} ..." if more else head
            source = _spliced(text, old, new)
            ast.parse(source)
            found.append(Mutant(path, *lines, function, short, source))
    yield from sorted(found, key=lambda mutant: mutant.first)


def of_statement(node: ast.AST) -> Iterator[Deletion]:
    """The checks that a statement is: calls, guards, refusals, and whom they blame."""
    nothing = ast.Pass()
    match node:
        case ast.Expr(value=ast.Call() as call) if _is_check(call):
            yield node, ast.unparse(node), nothing
        case ast.Expr(value=ast.Yield(value=ast.Tuple(elts=[ast.Constant(), _]))):
            yield node, ast.unparse(node), nothing  # a rule, with its name
        case ast.If(body=[ast.Raise() | ast.Return()]):
            yield node, ast.unparse(node), _block(node.orelse or [nothing])
        case ast.Try() if all(isinstance(h.body[-1], ast.Raise) for h in node.handlers):
            caught = " ".join(ast.unparse(h).splitlines()[0] for h in node.handlers)
            yield node, f"{caught} of {ast.unparse(node.body[0])}", _block(node.body)
            for tried in node.body:
                match tried:  # only called to see whether it raises
                    case ast.Expr(value=ast.Call() as call) if not _is_check(call):
                        yield tried, ast.unparse(tried), nothing
        case ast.With(items=[ast.withitem(context_expr=ast.Call(func=called))]):
            if _name(called) == "blame":
                yield node, ast.unparse(node), _block(node.body)
        case ast.FunctionDef(body=[*_, ast.Raise() as refusal]):
            yield refusal, ast.unparse(refusal), nothing


def of_expression(node: ast.AST) -> Iterator[Deletion]:
    """The checks that a condition consists of: what it joins, chains, or compares."""
    match node:
        case ast.BoolOp(op=op, values=values):
            for gone, rest in _one_out(values):
                yield node, _of(gone, node), _joined(op, rest)
        case ast.Compare(ops=[_, _, *_] as ops):
            pairs = zip(ops, pairwise([node.left, *node.comparators]), strict=True)
            links: list[ast.expr] = [ast.Compare(a, [op], [b]) for op, (a, b) in pairs]
            for gone, rest in _one_out(links):
                yield node, _of(gone, node), _joined(ast.And(), rest)
        case ast.Compare(
            left=ast.Tuple(elts=ours), ops=[op], comparators=[ast.Tuple(elts=theirs)]
        ):
            for place, (a, b) in enumerate(zip(ours, theirs, strict=True)):
                less = (
                    ast.Tuple([*side[:place], *side[place + 1 :]], ast.Load())
                    for side in (ours, theirs)
                )
                gone = ast.Compare(a, [op], [b])
                yield node, _of(gone, node), ast.Compare(next(less), [op], [*less])
        case ast.Call(func=called, args=[ours, theirs, *names]):
            for gone, rest in _one_out(names if _name(called) == "same" else []):
                yield node, _of(gone, node), ast.Call(called, [ours, theirs, *rest], [])


def _one_out(things: list[ast.expr]) -> Iterator[tuple[ast.expr, list[ast.expr]]]:
    for place, thing in enumerate(things):
        yield thing, things[:place] + things[place + 1 :]


def _of(part: ast.expr, whole: ast.expr) -> str:
    return f"{ast.unparse(part)} of {ast.unparse(whole)}"


def _joined(op: ast.boolop, values: list[ast.expr]) -> ast.expr:
    return values[0] if len(values) == 1 else ast.BoolOp(op, values)


def _block(statements: list[ast.stmt]) -> ast.If:
    return ast.If(ast.Constant(True), statements, [])


def _name(function: ast.expr) -> str:
    return getattr(function, "attr", getattr(function, "id", ""))


def _is_check(call: ast.Call) -> bool:
    """Whether a call whose result nothing uses is a check: a function does nothing else in
    the core, while a method may be there for what it does to its object."""
    module = getattr(getattr(call.func, "value", None), "id", "")
    checks = module == CHECKING_MODULE or _name(call.func).startswith(CHECKING_METHODS)
    return checks or isinstance(call.func, ast.Name)


def _walk(node: ast.AST, inside: str) -> Iterator[tuple[str, ast.AST]]:
    """Every node below this one, with the function or class that it stands in."""
    for child in ast.iter_child_nodes(node):
        within = inside
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            within = f"{inside}.{child.name}".lstrip(".")
        yield within, child
        yield from _walk(child, within)


def _spliced(text: str, old: Node, new: Node) -> str:
    """The text with one node's own text replaced."""
    raw, starts = text.encode(), [0]
    for line in raw.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    code = ast.unparse(ast.fix_missing_locations(new))
    code = f"({code})" if isinstance(old, ast.expr) else code
    code = code.replace("\n", "\n" + " " * old.col_offset)
    first = starts[old.lineno - 1] + old.col_offset
    last = starts[(old.end_lineno or 0) - 1] + (old.end_col_offset or 0)
    return (raw[:first] + code.encode() + raw[last:]).decode()
