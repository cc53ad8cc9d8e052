"""Somebody's package, which adds an adapter, a detector and a dataset: its source and its entry points, and how it comes onto the path."""

PACKAGE = '''
from dataclasses import dataclass
import torch
from torch import nn
from bench.adapters import Adapter
from bench.datasets import open_split, parse_data
from bench.types import Batch, Detections

class Middle(nn.Module):
    """Finds one thing, in the middle."""
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
    def prepare(self, images):
        sizes = tuple((int(x.shape[-2]), int(x.shape[-1])) for x in images)
        return Batch(nn.utils.rnn.pad_sequence([x.flatten(1).T for x in images], batch_first=True), sizes, sizes)
    def network(self, batch):
        return batch.originals
    def finish(self, raw):
        return [Detections(torch.tensor([[w / 4, h / 4, 3 * w / 4, 3 * h / 4]]), torch.tensor([0.5]), torch.tensor([0])) for h, w in raw]

def make(classes=None, size=None):
    made = Middle()
    made.asked = (classes, size)
    return made

def model(classes=None):
    import torchvision
    return torchvision.models.get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=(classes or 2) + 1)

def fails():
    raise OSError("weights are on\\nthe moon")

def number():
    return 7

def open_mine(text, split):
    return open_split(parse_data("scenes-v1"), split)

ADAPTER = Adapter("theirs", "somebody's", "theirs:middle", (), "", lambda: ("middle", "corner"), lambda wanted: Middle())
BROKEN = 3
'''
POINTS = """
[leandet.adapters]
theirs = theirpackage:ADAPTER
lost = theirpackage:NOTHING
odd = theirpackage:BROKEN

[leandet.detectors]
middle = theirpackage:make

[leandet.datasets]
mine = theirpackage:open_mine
"""


def install(folder):
    """Write it into a folder of the path as pip leaves it, with its metadata."""
    (folder / "theirpackage.py").write_text(PACKAGE)
    about = folder / "theirpackage-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: theirpackage\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(POINTS)
