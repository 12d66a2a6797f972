"""How many code lines a row took: its method, its recipe and its tests.

Blank lines, comments and docstrings do not count. A method is the function of `kdjax/methods/` that
the first claim's row names (of a study, its function in `experiments/studies/`), with the
private functions of its file that it uses; the recipe is the
function of its config file; its tests are those in `tests/` whose names begin with `test_METHOD_`.
"""

import ast
import importlib
import io
import re
import tokenize
from collections.abc import Iterable
from pathlib import Path

from tools.catalogue.rows import Row

Definition = ast.FunctionDef | ast.ClassDef

ROOT = Path(__file__).parents[2]
SILENT = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)


def code_lines(source: str, nodes: Iterable[Definition]) -> int:
    """The lines of `nodes` of a file that hold code."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    held = {
        line
        for token in tokens
        if token.type not in SILENT
        for line in range(token.start[0], token.end[0] + 1)
    }
    wanted: set[int] = set()
    for node in nodes:
        start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        wanted |= set(range(start, _end(node) + 1))
        for inner in ast.walk(node):
            if isinstance(inner, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(inner):
                text = inner.body[0]
                wanted -= set(range(text.lineno, _end(text) + 1))
    return len(wanted & held)


def _end(node) -> int:
    return node.end_lineno


def functions(source: str) -> dict[str, Definition]:
    """The functions and classes at the top of a file, by name."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name: node for node in ast.parse(source).body if isinstance(node, kinds)}


def with_helpers(source: str, name: str) -> list[Definition]:
    """The function `name` and the private ones of its file that it uses, directly or through others."""
    there, waiting = functions(source), [name]
    found: dict[str, Definition] = {}
    while waiting:
        current = waiting.pop()
        if current in found:
            continue
        found[current] = there[current]
        names = {node.id for node in ast.walk(there[current]) if isinstance(node, ast.Name)}
        waiting += [each for each in names if each in there and each.startswith("_")]
    return list(found.values())


def cost(row: Row) -> dict[str, int]:
    """{"method", "recipe", "test", "total"}: code lines.

    Raises:
        ValueError: a row without a recipe.
    """
    found = re.search(r"--config=(configs/\w+\.py):(\w+)", row["command"])
    if not found:
        raise ValueError(f"{row['command_name']} has no recipe to count")
    file, recipe = found.groups()
    config = importlib.import_module(file[:-3].replace("/", ".")).get_config(recipe)
    claim = next(iter(config.run.claims.values()))
    method = config.run.rows[claim.row].get("method") or config.run.study
    # A config file may offer recipes that stand in another.
    files = [ROOT / file, *sorted((ROOT / "configs").glob("*.py"))]
    texts = [path.read_text(encoding="utf-8") for path in files]
    text = next(text for text in texts if recipe in functions(text))
    counted = {"method": 0, "recipe": code_lines(text, with_helpers(text, recipe)), "test": 0}
    homes = [
        *sorted((ROOT / "kdjax" / "methods").glob("*.py")),
        *sorted((ROOT / "experiments" / "studies").glob("*.py")),
    ]
    for path in homes:
        text = path.read_text(encoding="utf-8")
        if method in functions(text):
            counted["method"] = code_lines(text, with_helpers(text, method))
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if f"test_{method}_" in text:
            own = [n for name, n in functions(text).items() if name.startswith(f"test_{method}_")]
            counted["test"] += code_lines(text, own)
    return {**counted, "total": sum(counted.values())}
