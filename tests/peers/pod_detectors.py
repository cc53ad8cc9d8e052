"""POD's detectors as tests build them."""

from __future__ import annotations

import torch

from bench.scales import SCALES
from bench.spec import Request
from implementations.baselines.faster_rcnn import faster_rcnn_c4, faster_rcnn_fpn
from implementations.baselines.retinanet import retinanet
from implementations.pod.model import build_pod
from implementations.pod.paper import PAPER

CLASSES = 4
DETECTORS = {"c4": faster_rcnn_c4, "fpn": faster_rcnn_fpn, "retina": retinanet}
ROW = PAPER.row("c4-r50")


def request(tier="smoke", **inputs):
    return Request(ROW.setting, SCALES[tier], CLASSES, inputs)


def build(detector, phase, given=None, **options):
    torch.manual_seed(3)
    return build_pod(given or request(), detector=detector, phase=phase, **options).eval()


def enliven(detector):
    """Weights of a net that has learnt: spread scores, and scales that differ from block to block and image to image."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in detector.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif ".bn" in name and name.endswith(("running_mean", "bias")):
                tensor.normal_(0, 0.1, generator=generator)
            elif "_subnet.convs." in name and name.endswith("weight"):
                torch.nn.init.kaiming_normal_(tensor, nonlinearity="relu", generator=generator)
            elif name == "head.box_subnet.predict.weight":
                tensor.normal_(0, 0.005, generator=generator)
            elif name == "head.class_subnet.predict.bias":
                tensor.fill_(-3.0)
            elif name.endswith(("cls_logits.weight", "cls_score.weight", "predict.weight", "bbox_pred.weight")):
                tensor.normal_(0, 0.05, generator=generator)
            elif name.endswith("predictor.linear.weight"):
                tensor.normal_(0, 0.002, generator=generator)
            elif name.endswith("predictor.linear.bias"):
                tensor.uniform_(0.4, 3.0, generator=generator)
    return detector
