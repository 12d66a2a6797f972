"""The losses against the recorded values and gradients of published implementations, entry by entry."""

import pathlib

import pytest

from tools.references import compare, recorded, registry

ADAPTERS, _ = registry.discover()
ENTRIES = recorded.read(pathlib.Path(__file__).parent)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_value_and_gradients_are_those_recorded(entry):
    row = compare.compare(entry, ADAPTERS.get(entry.name))
    assert row.status in ("matched", "quirk"), f"{row.status}: {row.detail}"


def test_every_adapter_is_of_a_recorded_entry():
    assert not sorted(ADAPTERS.keys() - {entry.name for entry in ENTRIES})


def test_a_quirk_stands_only_where_one_was_recorded():
    quirks = {name for name, adapter in ADAPTERS.items() if adapter.quirk}
    assert quirks <= {entry.name for entry in ENTRIES if entry.peer_quirk}
