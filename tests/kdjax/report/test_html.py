"""The report as a browser takes it: whole, well-formed, self-contained, escaped."""

import re
import threading
from html.parser import HTMLParser

import pytest

from kdjax.report import html
from kdjax.report.tables import Column, results_table

VOID = {"meta", "br", "hr", "img", "link", "input"}
NASTY = ['<script>alert("1")</script>', "a & b's", "$x^2$ ±", "kd-seed1"]


class Page(HTMLParser):
    """Tags balanced, with their attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)

    def values(self, name):
        return [value for key, value in self.attributes if key == name]


def report(path, names=("teacher", "alone", "kd", *NASTY), **changed):
    rows = [
        {
            "name": name,
            "seeds": [0, 1, 2],
            "metrics": {"accuracy": [0.5 + i / 20, 0.6, 0.7 + i / 50]},
        }
        for i, name in enumerate(names)
    ]
    columns = [Column("accuracy", "test <accuracy>", percent=True, gain=True)]
    curves = [
        {"row": name, "split": split, "step": step, metric: [1.0 / step, 2.0 / step]}
        for name in names
        for step in (1, 2, 3)
        for split, metric in (("train", "<labels>"), ("validation", "accuracy"), ("train", name))
    ]
    arguments = {
        "title": "A <b>title</b>",
        "table": results_table(rows, baseline="alone", columns=columns),
        "curves": curves,
        "notes": {"command <x>": "a --b='<c>' && d"},
        "config": {"run": {"nan": float("nan"), "tuple": (1, "</pre><script>")}},
    }
    html.write_report(path, **{**arguments, **changed})
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return report(tmp_path_factory.mktemp("report") / "report.html")


def test_it_is_well_formed_with_identifiers_of_its_own(text):
    page = Page(text)
    assert text.startswith("<!doctype html>") and text.endswith("</html>\n")
    identifiers = page.values("id")
    assert identifiers and len(identifiers) == len(set(identifiers))
    used = set(re.findall(r"url\(#([^)]+)\)", text))
    used |= {value.lstrip("#") for value in page.values("xlink:href")}
    assert used and used <= set(identifiers)


def test_nothing_is_fetched(text):
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(page.tags)
    assert not page.values("src") and not page.values("href") and "@import" not in text
    assert all(value.startswith("#") for value in page.values("xlink:href"))
    assert not re.search(r"https?:|url\((?!#)|//[a-z]", text)


def test_every_name_is_there_as_text(text):
    page = Page(text)
    for name in ("teacher", "alone", "kd", *NASTY):
        assert name in page.text["th"], "the table"
        assert name in page.text["li"], "the legend"
        assert name in page.text["figcaption"], "the panel of its loss"
        assert name in page.text["text"] or name == "alone", "the gains"
    assert page.text["title"] == ["A <b>title</b>"]
    assert "a --b='<c>' && d" in page.text["dd"] and "command <x>" in page.text["dt"]
    assert "</pre><script>" in page.text["pre"][0] and '"nan": "nan"' in page.text["pre"][0]


def test_panels_are_the_gains_the_learning_curve_and_one_for_every_term(text):
    captions = Page(text).text["figcaption"]
    assert captions[:2] == [
        "Gain in test <accuracy> over alone",
        "Validation accuracy while training",
    ]
    assert captions[2:] == ["<labels>", "teacher", "alone", "kd", *NASTY]
    assert Page(text).tags.count("svg") == len(captions)


def test_one_legend_with_the_colours_of_every_picture(text):
    styles = re.findall(r'<li><i style="border-top: 3px (\w+) (#\w+)"></i>([^<]*)</li>', text)
    assert len(styles) == 7 and len({style[:2] for style in styles}) == 7
    for dash, colour, _ in styles:
        assert dash == "solid" and text.count(f"stroke: {colour}") >= 3


def test_seeds_trained_in_turn_are_the_row_they_are_in_the_table(tmp_path):
    curves = [
        {
            "row": f"{name}-seed{seed}",
            "split": split,
            "step": 5 * step,
            "accuracy": 0.5,
            "labels": 1.0,
        }
        for name in ("alone", "kd")
        for seed in range(3)
        for split in ("train", "validation")
        for step in (1, 2)
    ]
    page = Page(report(tmp_path / "r.html", names=("teacher", "alone", "kd"), curves=curves))
    assert page.text["li"] == ["teacher", "alone", "kd"]


def test_another_metric_on_validation(tmp_path):
    metric = Column("nll", "negative log-likelihood")
    curves = [{"row": "kd", "split": "validation", "step": s, "nll": [0.1, 0.2]} for s in (1, 2)]
    page = Page(report(tmp_path / "r.html", names=("alone", "kd"), curves=curves, metric=metric))
    assert "Validation negative log-likelihood while training" in page.text["figcaption"]
    assert "validation negative log-likelihood" in page.text["text"]


def test_a_run_without_curves_has_a_report(tmp_path):
    page = Page(report(tmp_path / "r.html", curves=[], notes={}, config={}))
    assert page.tags.count("figure") == 1, "the gains"


def test_a_reader_sees_the_old_report_or_the_new_one(tmp_path):
    path = tmp_path / "report.html"
    few = {"names": ("alone", "kd"), "curves": []}
    wanted = {report(path, title=title, **few) for title in ("one", "two")}
    done, seen = threading.Event(), set()

    def read():
        while not done.is_set():
            seen.add(path.read_text(encoding="utf-8"))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(2):
        for title in ("one", "two"):
            report(path, title=title, **few)
    done.set()
    reader.join()
    assert len(wanted) == 2 and seen <= wanted and seen
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
