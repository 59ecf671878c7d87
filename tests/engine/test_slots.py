"""The session table: who is in which slot."""

from __future__ import annotations

import pytest
import torch

from gamegen.engine.slots import SlotTable, UnknownSessionError
from gamegen.engine.state import SamplingParams, Session
from gamegen.models.sampling import SamplingConfig
from gamegen.models.text import TextStates


def session() -> Session:
    prompt = TextStates(torch.zeros(1, 4), torch.zeros(4))
    return Session(seed=1, prompt=prompt, params=SamplingParams(SamplingConfig()))


def test_slots_are_given_out_once_and_come_back_in_order():
    table = SlotTable(2)
    for name in "ab":
        table.add(name, session())
    assert (table.get("a").slot, table.get("b").slot) == (0, 1)
    with pytest.raises(RuntimeError, match="all 2 session slots are taken"):
        table.add("c", session())
    assert table.find("c") is None
    table.remove("b")
    table.remove("a")
    table.add("c", session())
    assert table.get("c").slot == 1
    assert table.ids_in([0, 1]) == ["c"]


def test_unknown_sessions_are_named():
    table = SlotTable(1)
    assert table.find("a") is None and table.remove("a") is None
    with pytest.raises(UnknownSessionError, match="a"):
        table.get("a")
