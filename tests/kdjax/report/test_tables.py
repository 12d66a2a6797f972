"""The table's text by numbers worked out by hand, its shape, and its HTML."""

import math
from html.parser import HTMLParser

import pytest

from kdjax.report.tables import Column, Table, results_table

ACCURACY = Column("accuracy", "test accuracy", percent=True, gain=True)


def row(name, seeds=(0, 1, 2), **metrics):
    return {"name": name, "seeds": list(seeds), "metrics": metrics}


ROWS = [
    row("teacher", [0], accuracy=[0.984], parameters=[13706]),
    row("alone", accuracy=[0.90, 0.88, 0.92], agreement=[0.5, 0.5, 0.5], parameters=[1210] * 3),
    row("kd", accuracy=[0.95, 0.95, 0.95], agreement=[0.6, 0.7, 0.8], parameters=[1210] * 3),
    row("other", [1, 2, 3], accuracy=[0.95, 0.94, 0.96], parameters=[1210] * 3),
    row("bare", parameters=[1210] * 3),
]
COLUMNS = [ACCURACY, Column("agreement", "agreement", digits=2), Column("parameters", "size", digits=0)]  # fmt: skip


def test_cells_by_hand():
    # alone: mean 90, deviations 0, -2, 2: sd 2. kd - alone: 5, 7, 3: mean 5, sd 2,
    # half = t(0.975, 2) * 2 / sqrt(3) = 4.3027 * 1.1547 = 4.968.
    table = results_table(ROWS, baseline="alone", columns=COLUMNS)
    assert table.headings == (
        "row", "test accuracy\u00a0%", "gain over alone [95\u00a0%]", "agreement", "size",
    )  # fmt: skip
    assert table.cells == (
        ("teacher", "98.4", "–", "–", "13,706"),
        ("alone", "90.0 ± 2.0", "–", "0.50", "1,210"),
        ("kd", "95.0", "+5.0 [+0.0, +10.0]", "0.70 ± 0.10", "1,210"),
        ("other", "95.0 ± 1.0", "–", "–", "1,210"),
        ("bare", "–", "–", "–", "1,210"),
    )


def test_gains_as_numbers_are_in_the_unit_of_the_column():
    (gains,) = results_table(ROWS, baseline="alone", columns=COLUMNS).gains
    assert (gains.heading, gains.baseline, gains.percent) == ("test accuracy", "alone", True)
    assert list(gains.intervals) == ["kd"]
    assert gains.intervals["kd"] == pytest.approx((5.0, 0.0317, 9.9683), abs=1e-4)


def test_text_has_two_header_lines_and_numbers_below_each_other():
    table = results_table(ROWS, baseline="alone", columns=COLUMNS)
    assert str(table).splitlines() == [
        "               test     gain over alone",
        "row      accuracy %              [95 %]    agreement    size",
        "-------  ----------  ------------------  -----------  ------",
        "teacher  98.4                         –            –  13,706",
        "alone    90.0 ± 2.0                   –  0.50          1,210",
        "kd       95.0        +5.0 [+0.0, +10.0]  0.70 ± 0.10   1,210",
        "other    95.0 ± 1.0                   –            –   1,210",
        "bare              –                   –            –   1,210",
    ]


def test_short_headings_take_one_line():
    text = str(results_table(ROWS, baseline="alone", columns=[Column("parameters", "size", digits=0)]))  # fmt: skip
    assert text.splitlines()[0].split() == ["row", "size"]


def test_the_table_of_the_main_job_fits_120_columns():
    many = {"accuracy": [0.9, 1.0], "agreement": [0.9, 1.0], "calibration_error": [0.11, 0.2],
            "parameters": [7433860] * 2, "flops": [2167000000] * 2, "seconds": [86400.0, 86401.0]}  # fmt: skip
    columns = [
        ACCURACY,
        Column("agreement", "agreement with teacher", percent=True),
        Column("calibration_error", "calibration error", percent=True),
        Column("parameters", "parameters", digits=0),
        Column("flops", "FLOPs per example", digits=0),
        Column("seconds", "seconds per seed"),
    ]
    text = str(results_table([row("alone", [0, 1], **many)], baseline="alone", columns=columns))
    assert max(map(len, text.splitlines())) <= 120 and len(text.splitlines()) == 4


def test_a_single_seed_has_no_interval_and_the_sign_of_zero_is_kept():
    rows = [row("alone", [0], accuracy=[0.5]), row("kd", [0], accuracy=[0.625])]
    assert results_table(rows, baseline="alone", columns=[ACCURACY]).cells[1][1:] == (
        "62.5",
        "+12.5",
    )
    rows = [row("alone", accuracy=[0.5, 0.5, 0.5]), row("kd", accuracy=[0.5, 0.502, 0.504])]
    cell = results_table(rows, baseline="alone", columns=[ACCURACY]).cells[1][2]
    assert cell == "+0.2 [-0.3, +0.7]"
    rows[1]["metrics"]["accuracy"] = [0.5, 0.5001, 0.5004]
    cell = results_table(rows, baseline="alone", columns=[ACCURACY]).cells[1][2]
    assert cell == "+0.0 [-0.0, +0.1]"


def test_nan_is_said_plainly():
    rows = [row("alone", accuracy=[0.5, 0.6, 0.7]), row("kd", accuracy=[0.5, math.nan, 0.5])]
    table = results_table(rows, baseline="alone", columns=[ACCURACY])
    assert table.cells[1] == ("kd", "nan", "nan")
    assert "nan" in str(table)


def test_a_baseline_without_the_metric_or_without_a_row():
    rows = [row("alone", nll=[1.0, 2.0, 3.0]), row("kd", accuracy=[0.5, 0.6, 0.7])]
    table = results_table(rows, baseline="alone", columns=[ACCURACY])
    assert table.cells[1] == ("kd", "60.0 ± 10.0", "–") and table.gains[0].intervals == {}
    with pytest.raises(ValueError, match=r"no row 'aline'; rows: \['alone', 'kd'\]"):
        results_table(rows, baseline="aline", columns=[ACCURACY])


class Cells(HTMLParser):
    """The text of every cell, row by row, without what is kept invisible."""

    def __init__(self):
        super().__init__()
        self.rows, self.hidden = [], False

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
        self.hidden = ("class", "blank") in attrs

    def handle_endtag(self, tag):
        self.hidden = self.hidden and tag != "span"

    def handle_data(self, data):
        if self.rows and self.rows[-1] and not self.hidden:
            self.rows[-1][-1] += data.rstrip("\n")


def test_html_has_the_same_cells_and_escapes_them():
    rows = [
        row('<i>"a" & b</i> ± 1', accuracy=[0.5, 0.6, 0.7]),
        row("b-1", accuracy=[0.4, 0.5, 0.4]),
    ]
    column = Column("accuracy", "<acc>", percent=True, gain=True)
    table = results_table(rows, baseline=rows[0]["name"], columns=[column])
    text = table.to_html()
    assert "<i>" not in text and "<acc>" not in text
    parser = Cells()
    parser.feed(text)
    shown = [cell.replace("−", "-") for cells in parser.rows for cell in cells]
    assert shown == [*table.headings, *table.cells[0], *table.cells[1]]
    assert "−16.7 [" in text and ">b-1<" in text


def test_a_number_without_spread_keeps_its_place_in_html():
    text = Table(("row", "x"), (("a", "1.0"), ("b", "2.0 ± 10.5"), ("c", "<–>"))).to_html()
    assert '<td>1.0<span class="blank"> ± 10.5</span></td>' in text
    assert "<td>2.0 ± 10.5</td>" in text and "<td>&lt;–&gt;</td>" in text
