"""What a record says of the machine that made it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import machine

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def _with_gpu(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """A machine whose driver lists one GPU."""
    asked = folder / "nvidia-smi"
    asked.write_text("#!/bin/sh\necho NVIDIA Test 100\n")
    asked.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    machine.describe.cache_clear()


def test_a_machine_bears_the_name_of_its_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where torch may use it."""
    _with_gpu(monkeypatch, tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.describe()["name"] == "nvidia-test-100-x1"
    machine.describe.cache_clear()


def test_a_machine_whose_gpu_is_hidden_bears_the_name_of_its_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the CPU trained is not a GPU's."""
    _with_gpu(monkeypatch, tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    described = machine.describe()
    machine.describe.cache_clear()
    assert described["gpus"] == []
    assert "nvidia" not in described["name"]


def test_a_record_is_decided_by_the_processor_and_the_versions_that_made_it() -> None:
    """A GPU's is decided nowhere: it sums in any order."""
    made = {"device": "cpu", "versions": machine.versions(), "machine": machine.describe()}
    assert machine.alike(made)
    assert not machine.alike(made | {"device": "cuda:0"})
    assert not machine.alike(made | {"versions": machine.versions() | {"torch": "1.0"}})
    assert not machine.alike(made | {"machine": machine.describe() | {"cpu": "another"}})
