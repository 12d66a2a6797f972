"""Pictures hold the numbers: positions in the SVG against the values they stand for."""

import math
import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from kdjax.report import figures
from kdjax.report.intervals import Interval
from kdjax.report.tables import Gains

NAMES = ["teacher", "alone", "kd"]
LOOKS = figures.looks(NAMES)


def tree(svg):
    return ElementTree.fromstring(svg.replace("xlink:href", "href"))


def points(element):
    """[points, 2]: the corners of a path."""
    return np.array(re.findall(r"[ML] (\S+) (\S+)", element.get("d")), float)


def line(svg, colour):
    """The corners of the only line of a colour."""
    (found,) = [e for e in tree(svg).iter("path") if f"stroke: {colour}" in e.get("style", "")
                and "clip-path" in e.attrib]  # fmt: skip
    return points(found)


def dots(svg, colour):
    """[dots, 2]: where markers of a colour stand."""
    found = [e for e in tree(svg).iter("use") if f"fill: {colour}" in e.get("style", "")]
    return np.array([(e.get("x"), e.get("y")) for e in found], float)


def band(svg, colour):
    """The corners of the band of a colour: it is drawn by reference to a path."""
    (use,) = [
        e for e in tree(svg).iter("use") if f"fill: {colour}; fill-opacity" in e.get("style", "")
    ]
    (path,) = [e for e in tree(svg).iter("path") if "#" + e.get("id", "") == use.get("href")]
    return points(path) + [float(use.get("x")), float(use.get("y"))]


def texts(svg):
    return ["".join(e.itertext()) for e in tree(svg).iter("text")]


def lines(values, start=10, metric="labels"):
    return [{"step": start * (i + 1), metric: v} for i, v in enumerate(values)]


def assert_affine(pixels, values, sign):
    """Pixels are an affine function of the values, growing or falling."""
    slope, offset = np.polyfit(values, pixels, 1)
    assert np.sign(slope) == sign
    np.testing.assert_allclose(pixels, slope * np.asarray(values) + offset, atol=1e-3)


def test_whiskers_stand_at_their_bounds():
    intervals = {
        "teacher": Interval(9.0, 8.5, 9.5),
        "kd": Interval(-1.0, -4.0, 2.0),
        "alone": Interval(3.0, math.nan, math.nan),
    }
    svg = figures.gains(Gains("test accuracy", "base", True, intervals), LOOKS)
    x, values = [], []
    for name in ("teacher", "kd"):
        ends = line(svg, LOOKS[name].colour)
        (dot,) = dots(svg, LOOKS[name].colour)
        assert ends[0][1] == ends[1][1] == dot[1]
        x += [ends[0][0], dot[0], ends[1][0]]
        values += [intervals[name].low, intervals[name].mean, intervals[name].high]
    (lone,) = dots(svg, LOOKS["alone"].colour)
    zero = line(svg, r"var(--soft)")
    assert zero[0][0] == zero[1][0]
    assert_affine([*x, lone[0], zero[0][0]], [*values, 3.0, 0.0], sign=1)
    assert "percentage points" in texts(svg)
    rows = [text for text in texts(svg) if text in intervals]
    assert rows == list(intervals)
    heights = [dots(svg, LOOKS[name].colour)[0][1] for name in intervals]
    assert heights == sorted(heights)


def test_a_gain_that_is_nan_is_left_out():
    intervals = {"kd": Interval(1.0, 0.5, 1.5), "alone": Interval(*[math.nan] * 3)}
    svg = figures.gains(Gains("x", "base", False, intervals), LOOKS)
    assert "alone" not in texts(svg) and "x" in texts(svg)


def test_curves_are_means_and_bands_are_ranges():
    seeds = np.array([[0.2, 0.4, 0.9], [0.5, 0.5, 0.8], [0.9, 0.7, 0.8]])
    own = {"kd": lines(seeds.tolist()), "alone": lines([0.3, 0.6, 0.7])}
    svg = figures.curves(own, "labels", "y", LOOKS, scale=100)
    mean, single = line(svg, LOOKS["kd"].colour), line(svg, LOOKS["alone"].colour)
    edge = band(svg, LOOKS["kd"].colour)
    assert_affine(mean[:, 0], [10, 20, 30], sign=1)
    values = [*seeds.mean(axis=1), 0.3, 0.6, 0.7]
    assert_affine([*mean[:, 1], *single[:, 1]], values, sign=-1)
    for i, x in enumerate(mean[:, 0]):
        heights = edge[np.isclose(edge[:, 0], x, atol=1e-3), 1]
        values_and_pixels = [(seeds[i].max(), heights.min()), (seeds[i].min(), heights.max())]
        for value, pixel in values_and_pixels:
            slope, offset = np.polyfit(values, [*mean[:, 1], *single[:, 1]], 1)
            assert pixel == pytest.approx(slope * value + offset, abs=1e-2)


def test_seeds_in_turn_are_one_row_and_what_is_not_finite_is_passed_over():
    together = lines([[1.0, 3.0], [2.0, 4.0], [5.0, 7.0]])
    in_turn = lines([1.0, 2.0, 5.0]) + lines([3.0, 4.0, 7.0])
    broken = lines([[1.0, 3.0], [2.0, 4.0, math.inf], [5.0, 7.0, math.nan], [math.nan]])
    other = [{"step": 40, "accuracy": 1.0}]
    pictures = {
        figures.curves({"kd": own}, "labels", "y", LOOKS)
        for own in (together, in_turn, broken, together + other)
    }
    assert len(pictures) == 1


def test_a_logarithmic_axis():
    values = [10.0, 0.1, 0.001, 0.02]
    svg = figures.curves({"kd": lines(values)}, "labels", "y", LOOKS, log=True)
    assert_affine(line(svg, LOOKS["kd"].colour)[:, 1], np.log10(values), sign=-1)
    assert {"10", "0.1", "0.001"} <= set(texts(svg))


@pytest.mark.parametrize("values", [[1.0, 0.0, 2.0], [1.0, -3.0, 2.0]])
def test_a_loss_that_is_not_above_zero_keeps_a_linear_axis(values):
    svg = figures.curves({"kd": lines(values)}, "labels", "y", LOOKS, log=True)
    assert_affine(line(svg, LOOKS["kd"].colour)[:, 1], values, sign=-1)


@pytest.mark.parametrize("high", [1.02, 1.5, 4.0, 30.0, 1e3, 1e9])
def test_a_logarithmic_axis_of_any_span_has_labels_that_do_not_crowd(high):
    svg = figures.curves({"kd": lines([1.0, high])}, "labels", "y", LOOKS, log=True)
    labels = [e for e in tree(svg).iter("text") if "text-anchor: end" in e.get("style", "")]
    numbers = [float("".join(e.itertext())) for e in labels]
    assert 2 <= len(numbers) <= 9 and numbers == sorted(set(numbers))


def test_looks_differ_for_21_rows_and_are_the_same_everywhere():
    every = figures.looks([str(i) for i in range(21)])
    assert len(set(every.values())) == 21
    svg = figures.curves({name: lines([1.0, 2.0]) for name in every}, "labels", "y", every)
    dashed = [e for e in tree(svg).iter("path") if "stroke-dasharray" in e.get("style", "")]
    assert len([e for e in dashed if every["8"].colour in e.get("style")]) == 2


def test_pictures_take_ink_from_the_page_and_leave_matplotlib_as_it_was():
    before = dict(matplotlib.rcParams)
    svg = figures.curves({"kd": lines([1.0, 2.0])}, "labels", "a $b$ <c> & d_e", LOOKS)
    assert dict(matplotlib.rcParams) == before
    assert "a $b$ <c> & d_e" in texts(svg)
    styles = ";".join(e.get("style", "") for e in tree(svg).iter())
    colours = set(re.findall(r"(?:stroke|fill): ([^;\"]+)", styles))
    assert colours == {"none", "currentColor", "var(--soft)", "var(--line)", LOOKS["kd"].colour}
    assert "http" not in svg


def test_the_same_picture_twice_is_the_same_text_and_nothing_is_no_error():
    one, two = (figures.curves({"kd": lines([1.0, 2.0])}, "labels", "y", LOOKS) for _ in range(2))
    assert one == two
    empty = figures.curves({}, "labels", "y", LOOKS, log=True)
    assert "training step" in texts(empty)
