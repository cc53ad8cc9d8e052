"""Weights by name, held against others bit for bit."""

from __future__ import annotations

from implementations.compression.storage import equal_bits


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert [name for name, tensor in one.items() if not equal_bits(tensor, other[name])] == []
