"""JSON with what is not finite, and files that are never half there."""

import json
import math
import threading

import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.report import files


@pytest.mark.parametrize("value", [1, 0.1, -2.5e300, math.inf, -math.inf, [1.5, math.inf], []])
def test_numbers_come_back(value):
    assert files.number(json.loads(files.dumps(value))) == value


def test_nan_comes_back_and_the_text_is_strict_json():
    text = files.dumps({"a": math.nan, "b": [[math.nan, -math.inf], 1.0]})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    loaded = json.loads(text, parse_constant=refuse)
    assert loaded == {"a": "nan", "b": [["nan", "-inf"], 1.0]}
    assert np.isnan(files.number(loaded["a"]))
    np.testing.assert_array_equal(files.number(loaded["b"][0]), [math.nan, -math.inf])


def test_arrays_of_every_kind_become_plain():
    value = {
        "numpy": np.array([[1.0, np.nan]], np.float32),
        "jax": jnp.array([jnp.inf, 2.0]),
        "scalar": np.float32(0.5),
        "whole": np.int64(7),
        "tuple": (1, np.bool_(True)),
    }
    assert json.loads(files.dumps(value)) == {
        "numpy": [[1.0, "nan"]],
        "jax": ["inf", 2.0],
        "scalar": 0.5,
        "whole": 7,
        "tuple": [1, True],
    }


def test_other_text_stays_text():
    assert files.number(["nancy", "information", "NaN"]) == ["nancy", "information", "NaN"]


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path):
    path = tmp_path / "file.txt"
    texts = ["a" * 300_000, "b" * 200_000]
    files.write_atomically(path, texts[0])
    done = threading.Event()
    seen = []

    def read():
        while not done.is_set():
            seen.append(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(150):
        files.write_atomically(path, texts[i % 2])
    done.set()
    reader.join()
    assert seen and set(seen) <= set(texts)
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]
