"""The losses against the recorded values and gradients of published implementations, entry by entry."""

import pathlib

import pytest

from tools.references import compare, recorded, registry

ADAPTERS, _ = registry.discover()
ENTRIES = recorded.read(pathlib.Path(__file__).parent)


def first_of_each_adapter():
    """Each way of computing once; the other entries vary its hyperparameters."""
    seen = {}
    for entry in ENTRIES:
        adapter = ADAPTERS.get(entry.name)
        seen.setdefault(adapter and adapter.compute, entry)
    return list(seen.values())


QUICK = first_of_each_adapter()


@pytest.mark.parametrize("entry", QUICK, ids=lambda entry: entry.name)
def test_value_and_gradients_are_those_recorded(entry):
    precisions = ("float64",) if entry.double else ("float32",)
    row = compare.compare(entry, ADAPTERS.get(entry.name), precisions)
    assert row.status in ("matched", "quirk"), f"{row.status}: {row.detail}"


@pytest.mark.full
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_entry_matches_in_both_precisions(entry):
    row = compare.compare(entry, ADAPTERS.get(entry.name))
    assert row.status in ("matched", "quirk"), f"{row.status}: {row.detail}"


def test_every_adapter_is_of_a_recorded_entry():
    assert not sorted(ADAPTERS.keys() - {entry.name for entry in ENTRIES})


def test_a_quirk_stands_only_where_one_was_recorded():
    quirks = {name for name, adapter in ADAPTERS.items() if adapter.quirk}
    assert quirks <= {entry.name for entry in ENTRIES if entry.peer_quirk}


def test_every_recorded_entry_has_an_adapter():
    assert not sorted({entry.name for entry in ENTRIES} - ADAPTERS.keys())
