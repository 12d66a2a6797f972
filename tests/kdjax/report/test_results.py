"""results.json: what is written is read, and a metric has one value per seed."""

import json
import math

import numpy as np
import pytest

from kdjax.report.results import read_results, write_results


def test_rows_come_back(tmp_path):
    rows = [
        {"name": "nan", "seeds": [0], "metrics": {"accuracy": [0.1 + 0.2]}},
        {"name": "kd", "seeds": [3, 4, 5], "metrics": {"nll": [math.inf, -math.inf, 1e-300]}},
    ]
    write_results(tmp_path / "results.json", rows)
    assert read_results(tmp_path / "results.json") == rows


def test_nan_comes_back_from_arrays(tmp_path):
    path = tmp_path / "results.json"
    nll = np.array([0.5, np.nan], np.float32)
    write_results(path, [{"name": "kd", "seeds": [0, 1], "metrics": {"nll": nll}}])
    assert json.loads(path.read_text())[0]["metrics"]["nll"] == [0.5, "nan"]
    np.testing.assert_array_equal(read_results(path)[0]["metrics"]["nll"], [0.5, math.nan])


def test_a_missing_seed_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "results.json"
    write_results(path, [{"name": "kd", "seeds": [0], "metrics": {"accuracy": [1.0]}}])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"row 'kd': accuracy has 1 values for \[0, 1\]"):
        write_results(path, [{"name": "kd", "seeds": [0, 1], "metrics": {"accuracy": [1.0]}}])
    assert path.read_bytes() == before
