"""What POD's rows start from below the paper's scale: one trained detector without the method, whose class layers alone are new."""

from __future__ import annotations

from types import MappingProxyType

import pytest
import torch
from safetensors.torch import save_file

from bench.assemble import build_classifier, build_detector
from bench.catalogue import find_paper
from bench.scales import SCALES
from bench.spec import PRETRAINED
from bench.types import UserError
from implementations.pod.model import NAMING, blocks_of

PAPER = find_paper("pod")
SCALE = SCALES["smoke"]
KINDS = ("c4", "fpn", "retina")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def build(key, *, classes=4, seed=0, **inputs):
    return build_detector(PAPER.row(key), SCALE, classes, seed=seed, inputs=MappingProxyType(inputs))


def body_of(kind, folder, *, classes=4):
    """A file of a detector's weights, none of which a fresh detector has."""
    path = folder / "body.safetensors"
    state = build(f"body-{kind}-r50", classes=classes).state_dict()
    save_file({name: torch.full_like(tensor, 2) for name, tensor in state.items()}, path)
    return path


def plain(state):
    """Without what the method adds; parts of a decomposed convolution, in the order of their channels, under its name."""
    found = {}
    for name, tensor in state.items():
        if ".conv2.parts." in name:
            found.setdefault(name.partition(".parts.")[0] + ".weight", []).append(tensor)
        elif ".predictor.linear." not in name and not name.endswith(".dilations"):
            found[name] = [tensor]
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["", "-gsl"])
def test_baseline_and_gsl_take_all_of_the_body_but_the_layers_that_name_classes(kind, end, tmp_path):
    given = body_of(kind, tmp_path, classes=7)  # of other data
    state = build(f"{kind}-r50{end}", **{PRETRAINED: given}).state_dict()
    fresh = build(f"{kind}-r50{end}").state_dict()
    for name, tensor in state.items():
        if name.startswith(NAMING) or ".predictor.linear." in name:
            assert tensor.equal(fresh[name])
        else:
            assert tensor.eq(2).all(), name
    assert any(name.startswith(NAMING) for name in state)


@pytest.mark.parametrize("kind", KINDS)
def test_fd_starts_from_the_bodys_weights_too(kind, tmp_path):
    gsl = tmp_path / "gsl"
    gsl.mkdir()
    names = blocks_of(build(f"{kind}-r50-gsl"))
    (gsl / "derived.json").write_text(
        '{"scales": {"train": {' + ", ".join(f'"{name}_{direction}": 1.4' for name in names for direction in "hw") + "}}}"
    )
    row = f"{kind}-r50-gsl"
    fd = build(f"{kind}-r50-fd", **{PRETRAINED: body_of(kind, tmp_path), row: gsl / "weights.safetensors"})
    found = plain(fd.state_dict())
    assert {name for name, tensors in found.items() if not all(tensor.eq(2).all() for tensor in tensors)} == {
        name for name in found if name.startswith(NAMING)
    }
    assert any(len(tensors) == 2 for tensors in found.values()), "something was split"


@pytest.mark.parametrize("end", ["", "-gsl"])
def test_a_pretrained_backbone_is_taken_as_before(end, tmp_path):
    classifier = build_classifier(SCALE.backbones["R50-POD"], 3, seed=5)
    save_file(dict(classifier.state_dict()), tmp_path / "w.safetensors")
    state = build(f"c4-r50{end}", **{PRETRAINED: tmp_path / "w.safetensors"}).state_dict()
    assert state["backbone.layer3.0.conv2.weight"].equal(classifier.state_dict()["backbone.layer3.0.conv2.weight"])
    assert state["regions.head.layer4.1.conv2.weight"].equal(classifier.state_dict()["backbone.layer4.1.conv2.weight"])


def test_the_first_stages_are_frozen_as_with_a_pretrained_backbone(tmp_path):
    detector = build("c4-r50", **{PRETRAINED: body_of("c4", tmp_path)})
    fixed = {name.split(".")[1] for name, parameter in detector.named_parameters() if not parameter.requires_grad}
    assert fixed == {"conv1", "bn1", "layer1"}


def test_the_body_of_another_net_names_the_block(tmp_path):
    given = tmp_path / "deeper.safetensors"
    state = build("body-c4-r101").state_dict()
    save_file({name: tensor for name, tensor in state.items() if not name.startswith("backbone.layer3.1.")}, given)
    with pytest.raises(
        UserError, match=r"deeper.safetensors: R42 \(conv1.weight\) does not match.*allowed are the weights of the row that is its body"
    ):
        build("c4-r50-gsl", **{PRETRAINED: given})
