"""`python -m tools.bench losses`: rows with what a loss costs beside a plain KL divergence."""

import json

import pytest

from tools.bench import __main__ as command


@pytest.mark.full
def test_losses_row_has_ratio_spread_flops_and_bytes(tmp_path, capsys):
    path = tmp_path / "rows.json"
    assert command.main(["losses", "--only", "relational_angle", "--json", str(path)]) == 0
    (row,) = json.loads(path.read_text())
    assert row["name"] == "relational_angle"
    # It holds a [B, B, B] array where the KL holds [B, D]: no noise hides that.
    assert row["ratio"] > 3 and row["flops_ratio"] > 3 and row["bytes_ratio"] > 3
    assert row["spread"] >= 0 and row["flops"] > 0 and row["bytes"] > 0 and row["loops"] is False
    head, line = capsys.readouterr().out.splitlines()[-2:]
    assert head.split()[:3] == ["name", "ratio", "spread"] and "relational_angle" in line
