"""What `leandet check` and `leandet list --adapters` do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bench import adapters
from bench.subjects import Subject, find_subject
from bench.types import Unavailable, UserError

if TYPE_CHECKING:
    from bench.contract import Finding

CLASSES = 10  # that an adapter's detector is asked for where nobody says
SIZE = "160x224"  # small, so that it takes seconds


def check_detector(name: str, size: str, weights: str, classes: int) -> tuple[list[str], int]:
    """(a line a rule, number of broken rules) for the detector of that name; UserError where there is none, or it cannot be built."""
    import torch

    from bench.contract import examine
    from bench.detectors import build, deployed

    if name in adapters.entry_points(adapters.DATASETS):
        raise UserError(f"check {name}: is a dataset, which is given as {name}=TEXT, where it lies behind the sign; give it so")
    subject = _subject(name, size, weights, classes)
    try:
        detector = build(subject, "", subject.classes or CLASSES)
        detector = deployed(detector, subject.form, torch.float32) if subject.form else detector
    except UserError:
        raise
    except Exception as error:  # a file's function: anything may happen in it
        raise UserError(f"{name}: its builder raised {type(error).__name__}: {error}; mend the builder") from error
    try:
        findings = examine(detector, subject.classes or None, adapters.size_of(size or SIZE) or (160, 224))
    except Unavailable as reason:
        raise UserError(f"{name}: {reason}") from reason
    return _lines(findings)


def check_data(text: str) -> tuple[list[str], int]:
    """(a line a rule, number of broken rules) for the dataset that a text after --data means."""
    from bench.data_contract import examine
    from bench.datasets import parse_data
    from bench.datasets.source import or_one_file

    return _lines(examine(parse_data(or_one_file(text))))


def is_data(name: str) -> bool:
    """Whether a name is a dataset's, as after --data or a COCO JSON's path, and no detector's."""
    from bench.datasets.source import or_one_file

    name = or_one_file(name)
    return ":" not in name.partition("=")[0] and (name.startswith("scenes") or "=" in name)


def _lines(findings: Sequence[Finding]) -> tuple[list[str], int]:
    lines = [
        f"{each.state:9} {each.rule}{f': {each.said}' if each.said else ''}{f'; to mend: {each.mend}' if each.mend else ''}" for each in findings
    ]
    return lines, sum(each.state == "broken" for each in findings)


def _subject(name: str, size: str, weights: str, classes: int) -> Subject:
    """An adapter's detector is built small, keeps every detection, and is told the number of classes unless its weights say it."""
    subject = find_subject(f"python:{name}" if name in adapters.entry_points(adapters.DETECTORS) else name, "smoke")
    if subject.kind != "adapter":
        return replace(subject, classes=classes, size=size if subject.kind != "file" else "")
    fixed = "ssd300" in name or name.startswith(("onnx:", "openvino:"))
    return replace(subject, size=size or ("" if fixed else SIZE), weights=weights, classes=classes, score=0.0)


def adapter_lines() -> list[str]:
    """A line an adapter: whether it is installed, what it builds, and how to get it where it is not; then what packages have added."""
    lines = []
    for key in adapters.adapter_keys():
        try:
            adapter = adapters.find_adapter(key)
        except UserError as error:
            lines.append(f"{key:13} broken         {error}")
            continue
        unfit = adapter.unfit()
        state = "not installed" if adapter.missing() else "unfit" if unfit else "installed"
        rest = f"; {unfit}; next: {adapter.install}" if unfit else ""
        lines.append(f"{key:13} {state:14} {adapter.title}, as in {adapter.example}{rest}")
    for group, what in ((adapters.DETECTORS, "detector, as python:{0}"), (adapters.DATASETS, "dataset, as --data {0}=...")):
        lines += [f"{name:13} {'added':14} {what.format(name)}, by {point.value}" for name, point in sorted(adapters.entry_points(group).items())]
    return lines


def equivalence_lines(size: str) -> tuple[list[str], bool]:
    """(a line a detector and image, whether all are the same) for ours against torchvision's with one set of weights, found by name."""
    import importlib

    from bench.scales import SCALES
    from bench.spec import Request, Setting

    module = importlib.import_module(f"{adapters.FOLDER}.equivalence")
    sides = adapters.size_of(size) or (800, 1333)
    request = Request(Setting("", 20, min(sides), max(sides), "R50"), SCALES["paper"], 20)
    pictures = ((sides[0] // 2, sides[1] // 2), (sides[0] // 2, sides[0] * 3 // 8))
    found = module.all_residuals(request, pictures)
    head = f"{'detector':26} {'image':>10} {'ours':>5} {'theirs':>6} {'unpaired':>8} {'score':>9} {'box px':>9}"
    rows = []
    for each in found:
        about = f"{each.name:26} {f'{each.size[0]}x{each.size[1]}':>10} {each.found[0]:5} {each.found[1]:6} {each.unpaired:8}"
        rows.append(f"{about} {each.score:9.1e} {each.px:9.1e}  {'same' if each.same else 'DIFFERS'}")
    allowed = f"allowed: scores to {module.SCORE:g}, boxes to {module.PX:g} px, every detection with its counterpart"
    return [head, *rows, f"resized to {min(sides)}, at most {max(sides)}; {allowed}"], all(each.same for each in found)
