"""Finding one record by its name."""

import pytest

from bench.records import Record, write_record
from bench.showing import find_record
from bench.types import UserError


def test_a_run_of_several_machines_is_named_with_one_of_them(tmp_path, monkeypatch):
    """Two machines ran the same row and seed and found other numbers: none of them is picked unsaid."""
    monkeypatch.setenv("LEANDET_HOME", str(tmp_path))
    for machine, ap in (("desk", 24.0), ("laptop", 29.0)):
        record = Record("p.a.proxy.s0", "train", "p", "a", "proxy", 0, "ok", "", "d", {"ap": ap})
        write_record(record, tmp_path / "results" / "records" / machine / "p.a.proxy.s0.json")
    with pytest.raises(UserError, match=r"ran on 2 machines, .* name one: desk/p.a.proxy.s0, laptop/p.a.proxy.s0$"):
        find_record("p.a.proxy.s0")
    assert find_record("laptop/p.a.proxy.s0").values["ap"] == 29.0
