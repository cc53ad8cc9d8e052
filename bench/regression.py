"""The regression gate: this checkout against its merge base, interleaved A B A B; a slow-down is called only when it is large and no chance.

`nox -s bench -- --compare` runs it; `--store` keeps this machine kind's baselines, `--self-test` shows that the gate calls what it must and no more.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench import machine, places
from bench.records import write_atomically
from bench.subjects import Conditions, Subject
from bench.timing_worker import Died, Worker
from bench.two_samples import mann_whitney
from bench.types import UserError

P, RATIO = 0.002, 1.05  # asv calls a regression at this p; below this ratio nobody would mind
LAUNCHES, ROUNDS = 3, 40  # processes of each side, one after another, as each has luck of its own with its memory; images in each
WORKLOADS = (Subject("condensing.fpn-r50", "proxy"), Subject("condensing.k16-l5", "proxy"), Subject("condensing.rfcn", "proxy"))
CONDITIONS = Conditions(images=ROUNDS, threads=1)
NULL_RUNS, PLANTED = 10, 1.10
SLOWED = "        raw = detector.network(batch)\n"  # where the self-test plants its slow-down
PLANT = f"""{SLOWED}        pause = time.perf_counter() + {PLANTED - 1:.3f} * (time.perf_counter() - began)
        while time.perf_counter() < pause:
            pass
"""

Measured = tuple[list[float], list[float]]  # whole times in ms: ours, theirs


class Absent(Exception):  # noqa: N818 - no fault of this checkout, whose own fails the gate
    """The merge base has no such workload yet."""


@dataclass(frozen=True)
class Verdict:
    """One workload, now against before. Times are medians in ms."""

    workload: str
    ours_ms: float
    base_ms: float
    ratio: float
    p: float

    @property
    def regression(self) -> bool:
        """Slower by more than the ratio, and not by chance."""
        return self.p < P and self.ratio > RATIO

    def line(self) -> str:
        """The verdict in words."""
        word = "REGRESSION" if self.regression else "no regression"
        return f"{self.workload}: {self.ours_ms:.2f} ms against {self.base_ms:.2f} ms, ratio {self.ratio:.3f}, p = {self.p:.2g}: {word}"


def judge(workload: str, ours: Sequence[float], base: Sequence[float]) -> Verdict:
    """The verdict on two interleaved series of times in ms."""
    now, before = median(ours), median(base)
    return Verdict(workload, now, before, now / before, mann_whitney(ours, base))


# ---- measuring


def interleaved(subject: Subject, conditions: Conditions, trees: tuple[Path, Path], *, launches: int = LAUNCHES) -> Measured:
    """Time one subject as two checkouts build it, image by image in turns, in fresh processes each launch.

    Absent where the second cannot build it, UserError where the first cannot, Died where one ends.
    """
    series: Measured = ([], [])
    for _ in range(launches):
        with ExitStack() as ended:
            pair = [Worker(subject, conditions, source=tree) for tree in trees]
            for worker in pair:
                ended.callback(worker.close)
            pair[0].open()
            try:
                pair[1].open()
            except UserError as error:
                raise Absent(str(error)) from error
            for worker in pair:
                worker.ask("warm", quick=False)
            for place in range(conditions.images):
                for worker, kept in zip(pair, series, strict=True):
                    said = worker.ask("measure", place=place)
                    kept.append(said["prepare_ms"] + said["network_ms"] + said["finish_ms"])
    return series


def _git(*words: str) -> str:
    said = subprocess.run(["git", *words], cwd=places.SOURCE, capture_output=True, text=True, check=False)  # noqa: S603, S607 - our own words
    if said.returncode:
        raise UserError(f"git {' '.join(words[:2])}: {' '.join(said.stderr.split())}; the gate needs a clone with its history")
    return said.stdout.strip()


def merge_base() -> str:
    """The commit to compare with: the merge base with main; on main itself HEAD if the tree differs from it, else the commit before."""
    head = _git("rev-parse", "HEAD")
    for branch in ("origin/main", "main"):
        if machine.git("rev-parse", "--verify", "--quiet", branch):
            base = _git("merge-base", "HEAD", branch)
            if base != head:
                return base
    return head if machine.git("status", "--porcelain", "--", "bench", "implementations") else _git("rev-parse", "HEAD~1")


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A worktree of a commit in a temporary folder, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="leandet-") as folder:
        tree = Path(folder) / "base"
        _git("worktree", "add", "--detach", str(tree), commit)
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


# ---- baselines


def baseline_file() -> Path:
    """Where this machine kind's baselines are stored, in git."""
    return places.home() / "results" / "baselines" / f"{machine.describe()['name']}.json"


def stored() -> Mapping[str, Any]:
    """By workload; empty where none were stored on this machine kind. UserError for a file that is none of ours."""
    path = baseline_file()
    if not path.exists():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text())["workloads"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not baselines of leandet ({error}); delete it and store them again with --store") from error
    return found


def store(verdicts: Sequence[Verdict]) -> Path:
    """Keep the medians of now as this machine kind's baselines."""
    about = machine.source_state() | {"machine": machine.describe(), "versions": machine.versions(), "conditions": asdict(CONDITIONS)}
    workloads = {verdict.workload: {"whole_ms": verdict.ours_ms, "commit": about["commit"][:12]} for verdict in verdicts}
    text = json.dumps({**about, "workloads": workloads}, indent=1, sort_keys=True)
    write_atomically(baseline_file(), f"{text}\n".encode())
    return baseline_file()


def beside(verdict: Verdict, known: Mapping[str, Any]) -> str:
    """What the stored baseline says of a workload: for the reader, as no time of another day decides."""
    if verdict.workload not in known:
        return "no baseline of it is stored for this machine kind; --store keeps one"
    then = known[verdict.workload]
    return f"stored baseline {then['whole_ms']:.2f} ms at {then['commit']}, now {verdict.ours_ms / then['whole_ms']:.3f} of it"


# ---- the gate


def compare(say: Callable[[str], None], *, keep: bool = False) -> bool:
    """Compare every workload with the merge base; whether none is a regression."""
    commit, verdicts = merge_base(), list[Verdict]()
    known = stored()
    with checkout(commit) as tree:
        if not (tree / "bench" / "timing_process.py").exists():
            say(f"merge base {commit[:12]}: it has no latency meter, so there is nothing to compare with")
            return True
        say(f"against merge base {commit[:12]}, {LAUNCHES} x {ROUNDS} images of {CONDITIONS.data} a side, in turns")
        for subject in WORKLOADS:
            try:
                verdict = judge(subject.label, *interleaved(subject, CONDITIONS, (places.SOURCE, tree)))
            except Absent as error:
                say(f"{subject.label}: NOT COMPARED, the merge base cannot build it: {error}")
                continue
            verdicts.append(verdict)
            say(f"{verdict.line()}; {beside(verdict, known)}")
    if keep:
        say(f"stored in {store(verdicts)}")
    return not any(verdict.regression for verdict in verdicts)


def self_test(say: Callable[[str], None]) -> bool:
    """Ten comparisons of this commit with itself, and one with a planted slow-down: whether the gate was silent on all ten and called the one."""
    subject = WORKLOADS[0]
    with checkout("HEAD") as same, checkout_slowed() as slowed:
        null = [judge(f"nothing changed, run {run + 1}", *interleaved(subject, CONDITIONS, (same, same))) for run in _told(NULL_RUNS, say)]
        for verdict in null:
            say(verdict.line())
        planted = judge(f"{100 * (PLANTED - 1):.0f} % planted", *interleaved(subject, CONDITIONS, (slowed, same)))
        say(planted.line())
    return planted.regression and not any(verdict.regression for verdict in null)


def _told(runs: int, say: Callable[[str], None]) -> Iterator[int]:
    for run in range(runs):
        say(f"comparing a commit with itself, {run + 1} of {runs} ...")
        yield run


@contextmanager
def checkout_slowed() -> Iterator[Path]:
    """A worktree of HEAD whose detectors take a tenth longer."""
    with checkout("HEAD") as tree:
        meter = tree / "bench" / "meters" / "latency.py"
        source = meter.read_text()
        assert source.count(SLOWED) == 1, "the line to slow down is gone"
        meter.write_text(source.replace(SLOWED, PLANT))
        yield tree


def main() -> int:
    """0 without a regression, 1 with one, 2 for a mistake."""
    words = argparse.ArgumentParser(prog="bench.regression", description="Compare the speed of this checkout with its merge base.")
    words.add_argument("--store", action="store_true", help="keep what is measured now as this machine kind's baselines")
    words.add_argument("--self-test", action="store_true", help="show that it calls a planted slow-down and is silent where nothing changed")
    given = words.parse_args()
    try:
        good = self_test(_say) if given.self_test else compare(_say, keep=given.store)
    except (UserError, Died) as error:
        print(f"leandet: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201 - the program's answer
        return 2
    return 0 if good else 1


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the program's answer


if __name__ == "__main__":
    sys.exit(main())
