"""The three shared real data sets, where they are, against the counts of their own notes and pycocotools' reading."""

import os
from pathlib import Path

import numpy as np
import pytest

from bench.datasets import open_split, parse_data

SHARED = Path(os.environ.get("LEANDET_SHARED", Path(__file__).parents[2] / "shared")) / "data"


@pytest.mark.parametrize(
    ("name", "splits", "classes"),
    [
        ("bccd", {"train": (205, 2804), "val": (87, 1137), "test": (72, 945)}, 3),
        ("aquarium", {"train": (448, 3323), "val": (127, 909), "test": (63, 582)}, 7),
        ("voc2007", {"train": (2500, 7843), "val": (2508, 7812)}, 20),
    ],
)
def test_real_data(name, splits, classes):
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"the real data set {name} is not beside this repository (shared/data, or $LEANDET_SHARED)")
    pycocotools = pytest.importorskip("pycocotools.coco")
    data = parse_data(",".join(f"{split}={folder / split}.json" for split in splits))
    for key, (images, boxes) in splits.items():
        split = open_split(data, key)
        truth = split.ground_truth()
        assert (len(split), len(truth.boxes), len(split.classes)) == (images, boxes, classes)  # as the sets' own notes count them
        theirs = pycocotools.COCO(str(folder / f"{key}.json"))
        for at in range(0, images, 97):
            annotations = theirs.imgToAnns[split.image_id(at)]
            expected = [[x, y, x + w, y + h] for x, y, w, h in (annotation["bbox"] for annotation in annotations)]
            assert split.target(at).boxes.numpy() == pytest.approx(np.array(expected).reshape(-1, 4), abs=0.02)  # rounded to 1/100 px
            shape = (3, theirs.imgs[split.image_id(at)]["height"], theirs.imgs[split.image_id(at)]["width"])
            assert tuple(split.image(at).shape) == shape
