"""The table of `kdjax/losses/README.md`, from the docstrings, the comparison and the measured costs."""

import collections
import inspect
import re
import types

import kdjax.losses
from tools.references import registry

HEAD = """# Losses

{count} losses, pure functions: student first, arrays in, arrays out; `where` masks, `total_and_count` reduces. *Couples*: the value of one example depends on the others, so that several devices need the global batch. *Agrees with*: recorded entries of published implementations whose value and gradient the loss reproduces, and of how many projects. *Cost*: time of value and gradient over that of `softened_kl_divergence` on as many numbers per example, side by side on one CPU, with the distance between the quartiles.

Made by `python -m tools.bench losses --json COSTS` and `python -m tools.references --data DIR --costs COSTS --readme kdjax/losses/README.md`.

| loss | what | formula | needs | couples | reference | agrees with | cost |
|---|---|---|---|---|---|---|---|
"""


def table(rows, adapters, costs):
    """The README's text; `rows` are the comparison's, `costs` are by loss the rows of
    `tools.bench losses`, or empty."""
    losses = registry.public_losses()
    agreeing = agreements(rows, adapters, losses)
    lines = [
        "| "
        + " | ".join(
            [
                f"`{name}`",
                _escaped(inspect.getdoc(loss).splitlines()[0]),
                formula(loss),
                needs(loss),
                "couples" if name in kdjax.losses.COUPLING else "",
                _escaped(reference(loss)),
                agreeing[name],
                cost(costs.get(name)),
            ]
        )
        + " |"
        for name, loss in losses.items()
    ]
    return HEAD.format(count=len(losses)) + "\n".join(lines) + "\n"


def agreements(rows, adapters, losses):
    """{loss: "entries (projects)"} over the matched entries whose adapter calls the loss."""
    found = collections.defaultdict(list)
    for row in rows:
        if row.status == "matched":
            for name in called(adapters[row.name].compute) & losses.keys():
                found[name].append(row.source)
    return collections.defaultdict(
        str, {name: f"{len(each)} ({len(set(each))})" for name, each in found.items()}
    )


def called(function):
    """The names that a function's code uses, through the functions of its own module too."""
    names: set[str] = set()
    waiting, seen = [function], set()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        codes = [each.__code__]
        while codes:
            code = codes.pop()
            names |= {*code.co_names}
            codes += [c for c in code.co_consts if isinstance(c, types.CodeType)]
        held = [cell.cell_contents for cell in each.__closure__ or ()]
        held += [each.__globals__.get(name) for name in each.__code__.co_names]
        for value in held:
            if inspect.isfunction(value):
                names.add(value.__name__)
                if value.__module__ == function.__module__:
                    waiting.append(value)
    return names


def formula(loss):
    """The docstring's first formula, in one line of inline mathematics that a table can hold."""
    found = re.search(r"\.\. math::\s*(.+?)\n\s*\n", inspect.getdoc(loss), re.DOTALL)
    if not found:
        return ""
    text = " ".join(found.group(1).split())
    return "$" + text.replace(r"\|", r"\Vert ").replace("|", r"\vert ") + "$"


def needs(loss):
    """The arrays that the loss takes, both sides as one."""
    kinds = [
        re.sub(r"^(student|teacher)_", "", name)
        for name, parameter in inspect.signature(loss).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    return ", ".join(dict.fromkeys(kind.replace("_", " ") for kind in kinds))


def reference(loss):
    """Authors, title and year: the reference up to its first year."""
    _, _, text = inspect.getdoc(loss).partition("Reference:")
    text = " ".join(text.split())
    found = re.match(r".*?\b(19|20)\d\d\b", text)
    return found.group(0) if found else text


def cost(row):
    """The median ratio and its spread between quartiles, of a row of `tools.bench losses`."""
    return f"{row['ratio']:.2g} ± {row['spread']:.1g}" if row else ""


def _escaped(text):
    return text.replace("|", r"\|")
