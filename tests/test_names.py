"""Names of rows: a sequence of texts that are not there, and the JSON of them as `json.dumps` writes it."""

import json

import pytest
import torch

from selmix.features import names as names_module
from selmix.features.names import RowNames, as_json, picked


@pytest.mark.parametrize("rows", [range(7), torch.arange(7)])
def test_row_names_are_what_a_list_of_texts_is(rows):
    names, texts = RowNames(rows), list("0123456")
    assert list(names) == texts
    assert names == texts
    assert names != texts[::-1]
    assert names[5] == "5"
    assert names[1::3] == ["1", "4"]
    assert picked(names, torch.tensor([6, 2])) == picked(texts, torch.tensor([6, 2])) == ["6", "2"]
    assert picked(names[2:], torch.tensor([0])) == ["2"]


@pytest.mark.parametrize("at_once", [1, 2, 100])
@pytest.mark.parametrize("names", [{}, {"train": ["a", 'b"\n', "ü"], "test": []}, {"train": RowNames(range(3))}])
def test_json_is_that_of_json_dumps(monkeypatch, names, at_once):
    monkeypatch.setattr(names_module, "_AT_ONCE", at_once)
    assert "".join(as_json(names)) == json.dumps({name: list(own) for name, own in names.items()})
