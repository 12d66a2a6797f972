"""JSON as the reports write it: atomic, and with nan and infinities as strings that JSON can hold."""

import json
import math
import os
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """Numbers and (nested) lists for `json.dumps`; what is not finite becomes "nan", "inf", "-inf"."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def number(value: Any) -> Any:
    """The inverse of `plain` for what was a number or a list of them."""
    if isinstance(value, list):
        return [number(item) for item in value]
    return float(value) if value in ("nan", "inf", "-inf") else value


def write_atomically(path: Path, text: str) -> None:
    """The file is either the old one or all of the new one, whenever the process dies."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def dumps(value: Any, **options) -> str:
    return json.dumps(plain(value), allow_nan=False, **options)
