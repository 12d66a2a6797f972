"""How many code lines a row took: its method, its recipe and its tests; and its study, if it has one.

Blank lines, comments and docstrings do not count.

- method: the public functions of `kdjax/methods/` that are this row's alone: methods of the rows that
  its recipe makes claims about, or what its study names and no other one.
- recipe: the function of its config file.
- test: the functions in `tests/` whose names begin with `test_NAME_`, NAME being one of these methods or
  the study.
- study: the function of `experiments/studies/` with the row's data, networks and order of work.

Private functions are counted with the function that needs them, where no other one of their file does:
what several share costs none of them anything. `total` is method, recipe and test; a study is beside it.
"""

import ast
import collections
import functools
import importlib
import io
import re
import tokenize
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from tools.catalogue.rows import Row

Definition = ast.FunctionDef | ast.ClassDef

ROOT = Path(__file__).parents[2]
RECIPE = re.compile(r"--config=(configs/\w+)\.py:(\w+)")
SILENT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)


class Parts(NamedTuple):
    """Where a row's recipe is, the function of its study or "", and the methods that are claimed or named."""

    file: Path
    recipe: str
    study: str
    claimed: set[str]
    named: set[str]


def costs(rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    """{command name: {"method", "recipe", "test", "total", "study"}} of all rows that have a recipe."""
    found = {row["command_name"]: parts(row) for row in rows if has_recipe(row)}
    claims = collections.Counter(name for part in found.values() for name in part.claimed)
    names = collections.Counter(name for part in found.values() for name in part.named)
    counted = {}
    for row, part in found.items():
        methods = {name for name in part.claimed if claims[name] == 1}
        methods |= {name for name in part.named if names[name] == 1 and not claims[name]}
        tested = tuple(f"test_{name}_" for name in sorted({*methods, part.study} - {""}))
        lines = {
            "method": sum(code_lines(_text(path), methods) for path in _files("kdjax/methods")),
            "recipe": code_lines(_text(part.file), {part.recipe}),
            "test": sum(
                code_lines(
                    _text(path),
                    {name for name in functions(_text(path)) if name.startswith(tested)},
                )
                for path in _files("tests")
            ),
        }
        study = sum(code_lines(_text(path), {part.study}) for path in _files("experiments/studies"))
        counted[row] = {**lines, "total": sum(lines.values()), "study": study}
    return counted


def has_recipe(row: Row) -> bool:
    """Whether its command names a recipe, which is not another row's that covers it."""
    return row["status"] != "covered" and RECIPE.search(row["command"]) is not None


def parts(row: Row) -> Parts:
    """The functions that a row with a recipe is made of."""
    module, recipe = RECIPE.search(row["command"]).groups()  # type: ignore[union-attr]
    run = importlib.import_module(module.replace("/", ".")).get_config(recipe).run
    # A config file may offer recipes that stand in another.
    files = [ROOT / f"{module}.py", *_files("configs")]
    file = next(path for path in files if recipe in functions(_text(path)))
    study = run.get("study", "")
    claimed = {run.rows[claim.row].get("method", "") for claim in run.claims.values()}
    named: set[str] = set()
    for path in _files("experiments/studies"):
        if study in functions(_text(path)):
            named = _methods_of(_text(path), study)
    there = {name for path in _files("kdjax/methods") for name in functions(_text(path))}
    public = {name for name in there if not name.startswith("_")}
    return Parts(file, recipe, study, claimed & public, named & public)


def _methods_of(source: str, study: str) -> set[str]:
    """What a study takes out of `kdjax.methods`, by `methods.NAME` or by its own name."""
    modules: set[str] = set()
    names: dict[str, str] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and node.module in ("kdjax", "kdjax.methods"):
            modules |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("kdjax.methods."):
            names |= {alias.asname or alias.name: alias.name for alias in node.names}
    used = [inner for node in own(source, {study}) for inner in ast.walk(node)]
    return {
        inner.attr
        for inner in used
        if isinstance(inner, ast.Attribute) and getattr(inner.value, "id", "") in modules
    } | {names[inner.id] for inner in used if isinstance(inner, ast.Name) and inner.id in names}


def code_lines(source: str, names: Collection[str]) -> int:
    """The lines of a file's `own` definitions of these names that hold code."""
    wanted: set[int] = set()
    for node in own(source, names):
        start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        wanted |= set(range(start, _end(node) + 1))
        for inner in ast.walk(node):
            if isinstance(inner, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(inner):
                text = inner.body[0]
                wanted -= set(range(text.lineno, _end(text) + 1))
    return len(wanted & _held(source))


def own(source: str, names: Collection[str]) -> list[Definition]:
    """A file's definitions of these names, with the private ones that no other public one needs."""
    there = functions(source)
    others = {name for name in there if not name.startswith("_") and name not in names}
    shared = _reached(there, others)
    return [there[name] for name in _reached(there, names) if name in names or name not in shared]


@functools.cache
def functions(source: str) -> dict[str, Definition]:
    """The functions and classes at the top of a file, by name."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name: node for node in ast.parse(source).body if isinstance(node, kinds)}


def _reached(there: dict[str, Definition], names: Collection[str]) -> dict[str, None]:
    """Those of the names that are there, and the private ones that they use, directly or through others."""
    waiting = [name for name in names if name in there]
    found: dict[str, None] = {}
    while waiting:
        current = waiting.pop()
        if current not in found:
            found[current] = None
            used = _names(there[current])
            waiting += [name for name in there if name in used and name.startswith("_")]
    return found


@functools.cache
def _names(node: ast.AST) -> set[str]:
    """What a definition names, with and without a module before it."""
    given = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    return given | {inner.attr for inner in ast.walk(node) if isinstance(inner, ast.Attribute)}


@functools.cache
def _held(source: str) -> set[int]:
    """The numbers of the lines that hold more than comments."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        line
        for token in tokens
        if token.type not in SILENT
        for line in range(token.start[0], token.end[0] + 1)
    }


@functools.cache
def _files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@functools.cache
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _end(node) -> int:
    return node.end_lineno
