"""leandet's chores, each a chain of plain commands; all sessions share one environment, since torch alone weighs five gigabytes."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nox

HERE = Path(__file__).parent
PROJECT = nox.project.load_toml("pyproject.toml")
# Outside the project where told so (continuous integration keeps it between runs), else .nox/leandet.
SHARED = os.environ.get("LEANDET_VENV", str(HERE / ".nox" / "leandet"))

# mmdet's operators build with an older torch alone, so that it has an environment of its own, with detectron2; kept between runs likewise.
FRAMEWORKS = os.environ.get("LEANDET_MMDET_VENV", str(HERE / ".nox" / "mmdet"))
OLDER = ("setuptools<80", "wheel", "ninja", "torch==2.8.0", "torchvision==0.23.0")
MMCV, MMDET = "mmcv==2.1.0", ("mmdet==3.3.0", "mmengine==0.10.7")
DETECTRON2 = "https://github.com/facebookresearch/detectron2"
FRAMEWORK_TESTS = ("tests/test_mmdet.py", "tests/test_detectron2.py", "tests/test_same_weights.py", "tests/test_library_checkpoints.py")

PROGRAMS = Path(SHARED) / ("Scripts" if os.name == "nt" else "bin")

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["tests", "lint", "types"]


def chore(function: Callable[[nox.Session], None]) -> object:
    """Register a session that makes no environment of its own: nox knows none that several sessions share."""
    return nox.session(venv_backend="none")(function)


def set_up(session: nox.Session, *groups: str) -> None:
    """Make the shared environment, install leandet as it stands here with the groups that the session needs, and put it first on the path."""
    if not PROGRAMS.is_dir():
        session.run(sys.executable, "-m", "venv", SHARED)
    session.env["PATH"] = os.pathsep.join((str(PROGRAMS), os.environ.get("PATH", "")))  # for what these programs start in turn
    session.env["DVC_NO_ANALYTICS"] = "1"
    run(session, "python", "-m", "pip", "install", "-q", "-e", ".", *nox.project.dependency_groups(PROJECT, *groups))


def run(session: nox.Session, program: str, *arguments: str) -> None:
    """Run a program of the shared environment, by its full name: nox would look it up elsewhere."""
    session.run(str(PROGRAMS / program), *arguments)


@chore
def repro(session: nox.Session) -> None:
    """Reproduce: `dvc repro quick` unless other stages are named after `--`. DVC runs one stage at a time, so the trainings go first, two at once."""
    set_up(session)
    run(session, "leandet", "doctor")
    if not session.posargs:
        run(session, "leandet", "run", "quick", "--jobs", str(min(2, os.cpu_count() or 1)))
    run(session, "dvc", "repro", *(session.posargs or ["quick"]))


@chore
def tests(session: nox.Session) -> None:
    """The fast tests: at most eight minutes on two cores."""
    set_up(session, "tests", "deploy")
    run(session, "pytest", "--durations=15", *session.posargs)


@chore
def slow(session: nox.Session) -> None:
    """The tests that take minutes: every row at paper scale, the pipeline end to end."""
    set_up(session, "tests", "deploy")
    run(session, "pytest", "-m", "slow", "--durations=15", *session.posargs)


@chore
def transformers(session: nox.Session) -> None:
    """Detectors of Hugging Face's transformers, which leandet needs for nothing else: without its group their tests are left out."""
    set_up(session, "tests", "transformers")
    run(session, "pytest", "tests/test_transformers.py", "--durations=5", *session.posargs)


def set_up_frameworks(session: nox.Session) -> str:
    """The Python of an environment with mmdet, its operators built for two cores in about seven minutes and then kept in pip's cache; and leandet."""
    python = str(Path(FRAMEWORKS) / PROGRAMS.name / "python")
    if not Path(python).exists():
        session.run(sys.executable, "-m", "venv", FRAMEWORKS)
    session.env["PATH"] = os.pathsep.join((str(Path(python).parent), os.environ.get("PATH", "")))  # ninja is called by name
    session.env.update({"MMCV_WITH_OPS": "1", "FORCE_CUDA": "0", "CFLAGS": "-g0"})
    session.env.setdefault("MAX_JOBS", os.environ.get("MAX_JOBS", str(os.cpu_count() or 1)))
    install = (python, "-m", "pip", "install", "-q")
    session.run(*install, *OLDER)
    session.run(*install, "--no-build-isolation", MMCV)
    session.run(*install, *MMDET)
    session.run(*install, "-e", ".", *OLDER, *nox.project.dependency_groups(PROJECT, "tests"))
    return python


@chore
def mmdet(session: nox.Session) -> None:
    """Detectors of mmdet for real, in their environment: the contract, and one set of weights through ours and theirs."""
    session.run(set_up_frameworks(session), "-m", "pytest", "-rs", *(session.posargs or [*FRAMEWORK_TESTS, "--durations=10"]))


@chore
def detectron2(session: nox.Session) -> None:
    """Detectors of detectron2 likewise: from the folder in LEANDET_DETECTRON2, else from its repository where that can be reached."""
    source = os.environ.get("LEANDET_DETECTRON2", "")
    if source and not (Path(source) / "setup.py").is_file():
        session.error(f"LEANDET_DETECTRON2={source}: no folder with detectron2's setup.py; clone {DETECTRON2} there")
    if not source and not reached(DETECTRON2):
        session.skip(f"detectron2 is in no registry and {DETECTRON2} cannot be reached; name a clone of it in LEANDET_DETECTRON2")
    python = set_up_frameworks(session)
    session.run(python, "-m", "pip", "install", "-q", "--no-build-isolation", source or f"git+{DETECTRON2}", *OLDER)
    session.run(python, "-m", "pytest", "-rs", *(session.posargs or [*FRAMEWORK_TESTS, "--durations=10"]))


@chore
def frameworks_slow(session: nox.Session) -> None:
    """What takes minutes of mmdet and, where it is there, of detectron2: more configurations, weights that were trained."""
    session.run(set_up_frameworks(session), "-m", "pytest", "-rs", "-m", "slow", *(session.posargs or [*FRAMEWORK_TESTS, "--durations=10"]))


@chore
def zoo(session: nox.Session) -> None:
    """Which configurations answer, as committed: of mmdet, and of detectron2 where that is there (nox -s detectron2); goes on where it was left.

    `-- --again` asks those anew that failed, `-- --only PART` takes those whose name has that in it.
    """
    python = set_up_frameworks(session)
    for framework in ("mmdet", "detectron2"):
        if subprocess.run([python, "-c", f"import {framework}"], capture_output=True, check=False).returncode:  # noqa: S603 - a fixed command
            session.warn(f"{framework} is not in {FRAMEWORKS}; nox -s {framework} puts it there")
            continue
        table = f"implementations/adapters/{framework}_zoo.csv"
        session.run(python, "-m", "implementations.adapters.zoo", framework, "--out", table, *session.posargs)


def reached(repository: str) -> bool:
    """Whether git can read a repository from here, within half a minute."""
    try:
        words = ["git", "ls-remote", "-q", "--exit-code", repository, "HEAD"]
        silent = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
        asked = subprocess.run(words, env=silent, capture_output=True, timeout=30, check=False)  # noqa: S603 - a fixed command
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


@chore
def lint(session: nox.Session) -> None:
    """Style: ruff's rules and its format."""
    set_up(session, "lint")
    run(session, "ruff", "check", ".")
    run(session, "ruff", "format", "--check", ".")


@chore
def types(session: nox.Session) -> None:
    """Types: mypy, strict on bench."""
    set_up(session, "tests", "lint")
    run(session, "mypy")


@chore
def bench(session: nox.Session) -> None:
    """Speed: ours against torchvision's own detector, like with like, interleaved in one run; with `-- --compare` against the merge base.

    With `-- --frameworks` ours, torchvision, mmdet and detectron2 as far as they are installed, in mmdet's environment.
    """
    if "--frameworks" in session.posargs:
        words = [word for word in session.posargs if word != "--frameworks"]
        session.run(set_up_frameworks(session), "-m", "pytest", "tests/bench/test_frameworks_speed.py", "-m", "bench", "-s", *words)
        return
    set_up(session, "tests")
    if "--compare" in session.posargs:
        run(session, "python", "-m", "bench.regression", *(word for word in session.posargs if word != "--compare"))
        return
    run(session, "pytest", "tests/bench", "-m", "bench", "-s", *session.posargs)


@chore
def attest(session: nox.Session) -> None:
    """Replay the first steps of one committed record a paper and compare them bit for bit (the named ones after `--`)."""
    set_up(session)
    run(session, "leandet", "attest", *(session.posargs or ["--one-a-paper"]))


@chore
def tables(session: nox.Session) -> None:
    """Regenerate the committed tables from the committed records and predictions, and compare them byte for byte."""
    set_up(session)
    again = Path(session.create_tmp()) / "results"
    shutil.rmtree(again, ignore_errors=True)
    run(session, "leandet", "tables", "--committed", "--quiet", "--out", str(again))
    written = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    differing = [
        str(path)
        for path in written
        if not (HERE / "results" / path).is_file() or not filecmp.cmp(again / path, HERE / "results" / path, shallow=False)
    ]
    if differing or not written:
        session.error(f"not as committed: {', '.join(differing) or 'nothing was written'}; run `leandet publish` and commit what it changes")
    session.log(f"{len(written)} files equal byte for byte")
