"""Faster R-CNN R50-FPN of ours (as it learns, and fused), torchvision, mmdet and detectron2 on one image of 800 x 1216: a table of what is installed.

One set of weights, one image, the same threads, interleaved in one run: the whole detection, then a training step (losses, backward; no optimizer) on
two objects, with the norms, the stem and the first stage fixed in all of them, as mmdet and detectron2 have it. Else each library runs with its own
definitions; what those move is in docs/equivalence.csv. `nox -s bench -- --frameworks` has them all.
"""

import re
import statistics
import time
from importlib import metadata, util

import numpy as np
import pytest
import torch

from bench import machine
from bench.types import Target, detect
from implementations.adapters.equivalence import photograph
from implementations.adapters.same_weights import LIBRARIES, request_of, theirs, with_random_weights
from implementations.layers.fused import fused

SIZE, SIDES = (800, 1216), (800, 1333)
ROUNDS, STEPS, WARM = 15, 7, 2
OURS, REFERENCE = "leandet", "torchvision"
FIRST = re.compile(r"(?:.*\.)?(?:stem|res2|layer1|backbone\.conv1|body\.conv1)\..*")  # the parameters of the stem and the first stage


def side_by_side():
    ours = with_random_weights("faster_rcnn", request_of(SIDES))
    there = [library for library in LIBRARIES if util.find_spec(library) is not None]
    return {OURS: ours} | {library: theirs(library, "faster_rcnn", ours, request_of(SIDES)) for library in there}


def interleaved(calls, rounds):
    """Seconds of each call, in turns; the first turns warm up."""
    seconds = {name: [] for name in calls}
    for turn in range(rounds + WARM):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name] += [time.perf_counter() - began] if turn >= WARM else []
    return seconds


def as_tuned(detector):
    """Ready to learn what all four do when they are tuned; millions of parameters that learn."""
    detector.train()
    for module in detector.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval().requires_grad_(False)
    for name, parameter in detector.named_parameters():
        if FIRST.fullmatch(name):
            parameter.requires_grad_(False)
    return sum(each.numel() for each in detector.parameters() if each.requires_grad) / 1e6


def step(detector, image, target):
    def call():
        detector.zero_grad(set_to_none=True)
        torch.stack(list(detector([image], [target]).values())).sum().backward()

    return call


def table(title, seconds):
    """A line a detector: median, and its ratio to torchvision's with an interval over the turns."""
    base = seconds[REFERENCE]
    yield f"{title:28} {'version':>9} {'ms':>8} {'ratio to ' + REFERENCE:>22}"
    for name, taken in seconds.items():
        picks = np.random.default_rng(0).integers(0, len(taken), (2000, len(taken)))
        low, high = np.percentile(np.median(np.array(taken)[picks], 1) / np.median(np.array(base)[picks], 1), [2.5, 97.5])
        ratio = statistics.median(taken) / statistics.median(base)
        yield (f"{name:28} {metadata.version(name.partition('@')[0]):>9} {statistics.median(taken) * 1e3:8.0f} {ratio:10.3f} [{low:.3f}, {high:.3f}]")


@pytest.mark.bench
@pytest.mark.filterwarnings("ignore")
def test_ours_beside_the_frameworks(capsys):
    machine.keep_memory()
    torch.set_num_threads(machine.cores())
    detectors, image = side_by_side(), photograph(*SIZE)
    none = torch.zeros(2, dtype=torch.bool)
    target = Target(torch.tensor([[100.0, 80, 420, 500], [600, 300, 1100, 780]]), torch.tensor([0, 1]), none, none.clone(), seed=1)
    forms = detectors | {f"{OURS}@fused": fused(detectors[OURS], torch.float32)}
    with torch.inference_mode():
        found = interleaved({name: lambda each=each: detect(each, [image]) for name, each in forms.items()}, ROUNDS)
    lines = list(table(f"detection, {torch.get_num_threads()} threads", found))
    learning = {f"{as_tuned(each):.1f}" for each in detectors.values()}  # two of them have four box outputs of the background beside
    assert len(learning) == 1, f"they do not learn the same: {learning}"
    learnt = interleaved({name: step(each, image, target) for name, each in detectors.items()}, STEPS)
    lines += ["", *table(f"training step, {learning.pop()} M learn", learnt)]
    absent = [library for library in LIBRARIES if library not in detectors]
    lines += [f"torch {torch.__version__}, {machine.describe()['name']}", *([f"not installed: {', '.join(absent)}"] if absent else [])]
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    assert statistics.median(found[f"{OURS}@fused"]) < statistics.median(found[REFERENCE])
