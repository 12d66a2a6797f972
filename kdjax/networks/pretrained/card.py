"""Model cards: the `README.md` of a folder of weights, with the header that model hubs read."""

import json
from collections.abc import Mapping


def model_card(
    name: str,
    *,
    licence: str,
    method: str,
    teacher: str,
    teacher_fingerprint: str,
    numbers: Mapping[str, float | str],
    data: str = "",
    command: str = "",
    fingerprint: str = "",
) -> str:
    """The text of a distilled model's card.

    Args:
        name: of the student.
        licence: its SPDX name, in lower case as hubs want it, "apache-2.0". A teacher's licence may
            bind its students: it is stated, not guessed.
        method: how it was distilled, with the hyperparameters that matter.
        teacher: the name of the teacher.
        teacher_fingerprint: `fingerprint` of its parameters, so that anyone can see which it was.
        numbers: measured results by name, as they are to be printed.
        data: what it was trained and measured on.
        command: what made it.
        fingerprint: of the student's own parameters.

    Raises:
        ValueError: an empty licence, method or fingerprint of the teacher.

    >>> card = model_card("student", licence="mit", method="logits at T = 2", teacher="big",
    ...                   teacher_fingerprint="ab12", numbers={"perplexity": 12.5})
    >>> print(card.splitlines()[1])
    license: "mit"
    """
    for key, value in (
        ("licence", licence),
        ("method", method),
        ("teacher_fingerprint", teacher_fingerprint),
    ):
        if not value.strip():
            raise ValueError(f"{key} must not be empty: a card says it")
    header = {"license": licence, "tags": ["knowledge-distillation"], "base_model": teacher}
    # JSON is YAML, and quotes whatever a name may hold.
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in header.items()), "---", ""]
    lines += [f"# {name}", "", f"A student of {teacher}, distilled by {method}.", ""]
    facts = {
        "Licence": licence,
        "Method": method,
        "Teacher": teacher,
        "Teacher's fingerprint": f"`{teacher_fingerprint}`",
        "Fingerprint": f"`{fingerprint}`" if fingerprint else "",
        "Data": data,
        "Made by": f"`{command}`" if command else "",
    }
    lines += [f"- {key}: {value}" for key, value in facts.items() if value]
    if numbers:
        lines += ["", "| measured | value |", "|---|---|"]
        lines += [f"| {_cell(key)} | {_cell(_text(value))} |" for key, value in numbers.items()]
    return "\n".join(lines) + "\n"


def _text(value):
    return value if isinstance(value, str) else f"{value:.4g}"


def _cell(text):
    return text.replace("|", r"\|").replace("\n", " ")
