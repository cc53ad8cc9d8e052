"""What POD's rows start from below the paper's scale: one trained detector without the method, whose class layers alone are new."""

from __future__ import annotations

import json
from dataclasses import replace
from types import MappingProxyType

import pytest
import torch
from safetensors.torch import save_file

from bench.assemble import build_classifier, build_detector
from bench.catalogue import find_paper
from bench.scales import SCALES
from bench.spec import PRETRAINED
from bench.types import UserError
from implementations.baselines.retinanet import retinanet
from implementations.pod.global_scale import GlobalScaleConv
from implementations.pod.model import NAMING, Pod, blocks_of
from implementations.pod.one_stage import SUBNETS

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


def subnets(state):
    """Each convolution of RetinaNet's subnets, by name."""
    return {name: tensor for name, tensor in state.items() if name.startswith(SUBNETS) and name.endswith(".weight")}


@pytest.mark.parametrize("tier", ["smoke", "proxy"])
@pytest.mark.parametrize("key", ["body-retina-r50", "retina-r50", "retina-r50-gsl", "retina-r50-fd"])
def test_the_subnets_of_retinanet_pass_on_as_much_as_at_the_papers_width(key, tier):
    """The root of what a layer reads, times its deviation: that of 9 x 256 numbers drawn at 0.01."""
    layers = subnets(build_detector(PAPER.row(key), SCALES[tier], 4, seed=0).state_dict())
    assert len(layers) == 2 * 5
    for tensor in layers.values():
        assert float(tensor.std()) * tensor[0].numel() ** 0.5 == pytest.approx(0.01 * (9 * 256) ** 0.5, rel=0.1)


def test_at_the_papers_width_the_subnets_are_those_of_retinanet():
    row, wide = PAPER.row("retina-r50"), replace(SCALE, width=1.0)
    plain = build_detector(replace(row, build=lambda request, **_: retinanet(request)), wide, 4, seed=0).state_dict()
    ours = build_detector(row, wide, 4, seed=0).state_dict()
    assert list(ours) == list(plain)
    assert all(tensor.equal(plain[name]) for name, tensor in ours.items())


def test_only_what_the_body_leaves_as_drawn_is_scaled(tmp_path):
    state = build("retina-r50-gsl", **{PRETRAINED: body_of("retina", tmp_path)}).state_dict()
    fresh = build("retina-r50-gsl").state_dict()
    for name, tensor in subnets(state).items():
        assert tensor.equal(fresh[name]) if name.startswith(NAMING) else tensor.eq(2).all()


def test_weights_that_are_transferred_stay_as_gsl_left_them(tmp_path):
    """Class layers too: nothing of FD-WT's is as drawn."""
    gsl = build("retina-r50-gsl")
    save_file({name: torch.full_like(tensor, 2) for name, tensor in gsl.state_dict().items()}, tmp_path / "weights.safetensors")
    scales = {f"{name}_{direction}": 1.4 for name in blocks_of(gsl) for direction in "hw"}
    (tmp_path / "derived.json").write_text(json.dumps({"scales": {"train": scales}}))
    given = {PRETRAINED: body_of("retina", tmp_path), "retina-r50-gsl": tmp_path / "weights.safetensors"}
    found = subnets(build("retina-r50-fd-wt", **given).state_dict())
    assert len(found) == 2 * 5
    assert all(tensor.eq(2).all() for tensor in found.values())


@pytest.mark.parametrize(
    ("row", "option", "values"),
    [
        ("c4-r50-gsl", "sharing", ("image", "roi")),
        ("fpn-r50-gsl", "start", ("plain", "he bias 1", "he")),
        ("fpn-r50-fd", "inherit", ("centre", "sum")),  # with the printed scales, of which some are below one
    ],
)
def test_each_option_of_a_row_makes_another_detector_and_stands_in_its_record(row, option, values):
    """What the text leaves open is the row's to say: the same draws and images, other answers."""
    image, found = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)), []
    for value in values:
        own = PAPER.row(row)
        detector = build_detector(replace(own, arguments=MappingProxyType({**own.arguments, option: value})), SCALE, 4, seed=0).eval()
        assert any(getattr(each, option, "") == value for each in detector.config.regions if isinstance(each, Pod))
        torch.manual_seed(0)
        for module in detector.modules():
            if isinstance(module, GlobalScaleConv) and option == "sharing":
                torch.nn.init.normal_(module.predictor.linear.weight, std=0.5)
        with torch.inference_mode():
            batch = detector.prepare([image])
            found.append(detector.network(batch).answers.scores)
    assert not any(found[0].shape == other.shape and found[0].equal(other) for other in found[1:])


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
