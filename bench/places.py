"""Where things lie: the source, the run folders, the results. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]  # holds bench/ and implementations/


def home() -> Path:
    """The folder that holds runs/ and results/: LEANDET_HOME, else the checkout, else (installed without one) where the command was typed."""
    named = os.environ.get("LEANDET_HOME")
    if named:
        return Path(named).resolve()
    return SOURCE if (SOURCE / "pyproject.toml").exists() else Path.cwd()


def runs() -> Path:
    """One folder a run: checkpoints, weights, predictions, record. Never in git."""
    return home() / "runs"


def run_folder(run_id: str) -> Path:
    """The folder of one run."""
    return runs() / run_id


def local_results() -> Path:
    """Tables and records of this machine, never in git."""
    return home() / "results" / "local"


def committed_records() -> Path:
    """Records and predictions that are in git, one folder a machine."""
    return home() / "results" / "records"


def local_scores() -> Path:
    """Rows made from anybody's results files."""
    return local_results() / "scores"


def costs() -> Path:
    """Cost records of this checkout."""
    return runs() / "costs"


def latencies() -> Path:
    """Latency records of this checkout with their samples, one folder a machine."""
    return runs() / "latency"


def pareto() -> Path:
    """What `leandet pareto` has found, one folder a machine."""
    return runs() / "pareto"
