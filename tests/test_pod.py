"""POD's detectors: two phases joined by weights and averages, and what each may not change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from noise import photographs, target
from pod_detectors import DETECTORS, build, enliven, request
from safetensors.torch import load_file, save_file

from bench.derive import DERIVED, flat, keep
from bench.scales import SCALES
from bench.spec import PRETRAINED
from bench.types import UserError, detect
from implementations.baselines.faster_rcnn import faster_rcnn_c4
from implementations.baselines.retinanet import retinanet
from implementations.layers.backbones import BackboneClassifier, load_backbone
from implementations.pod import averages
from implementations.pod.averages import printed_averages, read_averages, scale_averages
from implementations.pod.decomposition import DecomposedConv
from implementations.pod.global_scale import GlobalScaleConv
from implementations.pod.model import ScaledRegions, blocks_of, deploy, transfer


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def saved(detector, path):
    save_file({name: tensor.contiguous() for name, tensor in detector.state_dict().items()}, path)
    return path


def learnt(detector, folder, images=None):
    """A GSL run's folder: weights, and the averages that its Derive step leaves."""
    weights = saved(detector, folder / "weights.safetensors")
    values = scale_averages(detector, [images or photographs((90, 128), (128, 96))])
    keep({"scales": {"train": values}}, folder)
    return weights


# ---- phase one


@pytest.mark.parametrize("kind", DETECTORS)
def test_gsl_has_a_predictor_in_every_block_of_conv3_to_conv5(kind):
    detector = build(kind, "gsl")
    blocks = blocks_of(detector)
    assert list(blocks) == ["R31", "R32", "R41", "R42", "R51", "R52"]
    assert all(isinstance(block.conv2, GlobalScaleConv) for block in blocks.values())
    plain = DETECTORS[kind](request())
    assert {name for name in detector.state_dict() if ".predictor.linear." not in name} == set(plain.state_dict())


@pytest.mark.parametrize("kind", DETECTORS)
def test_gsl_starts_as_the_pretrained_plain_detector(kind):
    """Weights of the linear layer 0, bias 1: the same weights give the same answers."""
    gsl, plain = enliven(build(kind, "gsl")), DETECTORS[kind](request()).eval()
    with torch.no_grad():
        for block in blocks_of(gsl).values():
            block.conv2.predictor.linear.weight.zero_()
            block.conv2.predictor.linear.bias.fill_(1)
    plain.load_state_dict({name: tensor for name, tensor in gsl.state_dict().items() if ".predictor.linear." not in name})
    images = photographs((90, 128), (128, 96))
    with torch.inference_mode():
        for mine, other in zip(detect(gsl, images), detect(plain, images), strict=True):
            torch.testing.assert_close(mine.boxes, other.boxes, atol=1e-3, rtol=0)
            torch.testing.assert_close(mine.scores, other.scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sharing", ["image", "roi"])
def test_regions_learn_their_scale_by_image_or_alone(sharing):
    detector = enliven(build("c4", "gsl", sharing=sharing))
    assert isinstance(detector.regions, ScaledRegions)
    heard = []
    detector.regions.head.layer4[0].conv2.predictor.register_forward_hook(lambda _, given, out: heard.append((given[1], out)))
    images = photographs((90, 128), (128, 96))
    with torch.inference_mode():
        detector.network(detector.prepare(images))
    ((members, scales),) = heard
    apart = [len(scales[members == image].round(decimals=5).unique(dim=0)) for image in (0, 1)]
    assert apart == [1, 1] if sharing == "image" else min(apart) > 1
    values = scale_averages(detector, [images])
    rows = scales if sharing == "roi" else torch.stack([scales[members == image][0] for image in (0, 1)])
    assert values["R51_h"] == pytest.approx(float(rows[:, 0].double().mean()), rel=1e-5)
    assert values["std_R51_w"] == pytest.approx(float(rows[:, 1].double().std(unbiased=False)), rel=1e-3, abs=1e-7)


def test_every_predictor_learns():
    detector = build("c4", "gsl").train()
    boxes = [target([10, 10, 60, 70], [40, 30, 120, 80], seed=1), target([5, 5, 70, 60], seed=2)]
    sum(detector(photographs((90, 128), (90, 128)), boxes).values()).backward()
    with torch.no_grad():
        gradients = {name: block.conv2.predictor.linear.bias.grad.abs().sum() for name, block in blocks_of(detector).items()}
    assert all(value > 0 for value in gradients.values()), gradients


# ---- the averages


def test_averages_are_means_and_deviations_over_images(tmp_path):
    detector = enliven(build("fpn", "gsl"))
    images = photographs((90, 128), (128, 96), (64, 64))
    heard = []
    block = blocks_of(detector)["R42"].conv2.predictor
    handle = block.register_forward_hook(lambda _, given, out: heard.append(out))
    values = scale_averages(detector, [images[:2], images[2:]])
    handle.remove()
    scales = torch.cat(heard)
    assert scales.shape == (3, 2)
    assert values["R42_w"] == pytest.approx(float(scales[:, 1].mean()), rel=1e-5)
    assert values["std_R42_w"] == pytest.approx(float(scales[:, 1].std(unbiased=False)), rel=1e-3)
    assert (values["conv4_last_h"], values["conv4_first_h"]) == (values["R42_h"], values["R41_h"])
    keep({"scales": {"train": values, "val": values}}, tmp_path)
    assert read_averages(tmp_path / "weights.safetensors")["R42"] == (values["R42_h"], values["R42_w"])
    assert flat(json.loads((tmp_path / DERIVED).read_text()))["std_R42_w_val"] == values["std_R42_w"]


def test_averages_of_a_row_that_learns_no_scales_are_an_error():
    with pytest.raises(UserError, match="no scale predictors; averages are of a GSL row"):
        scale_averages(retinanet(request()), [photographs((64, 64))])


@pytest.mark.parametrize("text", [None, "{", "{}", '{"scales": {"train": {"R31_h": 1.0}}}'])
def test_missing_or_damaged_averages_are_said(tmp_path, text):
    if text is not None:
        (tmp_path / DERIVED).write_text(text)
    with pytest.raises(UserError, match=r"derived.json: no averaged scales in it \(\w+\); run the GSL row"):
        read_averages(tmp_path / "weights.safetensors")


def test_the_file_is_where_the_harness_leaves_it():
    assert averages.DERIVED == DERIVED


def test_printed_averages_are_table_3s_at_both_ends_of_a_stage():
    printed = json.loads(Path(averages.PRINTED).read_text())
    down, right = (row["values"] for row in next(t for t in printed["tables"] if t["id"] == "T3")["rows"][:2])
    found = printed_averages("c4", (3, 4, 6, 3))
    ends = ("R31", "R34", "R41", "R46", "R51", "R53")
    assert [found[name] for name in ends] == [pytest.approx((h[0], w[0])) for h, w in zip(down[4:], right[4:], strict=True)]
    assert len(found) == 4 + 6 + 3
    assert found["R32"][0] == pytest.approx(found["R31"][0] + (found["R34"][0] - found["R31"][0]) / 3)
    assert len(printed_averages("fpn", (3, 4, 23, 3))) == 30


# ---- phase two


def pretrained(folder):
    torch.manual_seed(11)
    return saved(BackboneClassifier(SCALES["smoke"].backbones[request().setting.backbone], 10), folder / "pretrained.safetensors")


@pytest.mark.parametrize("kind", DETECTORS)
def test_fd_starts_from_the_pretrained_weights_shared_out(kind, tmp_path):
    weights, gsl = pretrained(tmp_path), learnt(enliven(build(kind, "gsl")), tmp_path)
    fd = build(kind, "fd", request(**{PRETRAINED: weights, "gsl": gsl}), scales_of="gsl")
    given = load_file(weights)
    for name, block in blocks_of(fd).items():
        assert isinstance(block.conv2, DecomposedConv)
        whole = given[f"backbone.layer{int(name[1]) - 1}.{int(name[2]) - 1}.conv2.weight"]
        shared = whole.split([part.channels for part in block.conv2.plan.parts])
        for conv, wanted in zip(block.conv2.parts, shared, strict=True):
            rows, columns = (slice(None) if side == 3 else slice(1, 2) for side in conv.kernel_size)
            assert torch.equal(conv.weight, wanted[:, :, rows, columns])
    scales = read_averages(gsl)
    assert set(scales) == set(blocks_of(fd))
    fixed = {name for name, p in fd.named_parameters() if not p.requires_grad}
    plain = DETECTORS[kind](request())
    load_backbone(plain, weights)
    assert fixed == {name for name, p in plain.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize("kind", DETECTORS)
def test_fd_wt_at_integral_scales_is_gsl(kind, tmp_path):
    """Predictors that say 1, 2 or 3 whatever they see: transfer and decomposition change no answer."""
    gsl = enliven(build(kind, "gsl"))
    with torch.no_grad():
        for place, block in enumerate(blocks_of(gsl).values()):
            block.conv2.predictor.linear.weight.zero_()
            block.conv2.predictor.linear.bias.copy_(torch.tensor([1.0 + place % 3, 1.0 + (place + 1) % 3]))
    fd = build(kind, "fd", request(gsl=learnt(gsl, tmp_path)), begin="transferred", scales_of="gsl")
    images = photographs((90, 128), (128, 96))
    with torch.inference_mode():
        batch = gsl.prepare(images)
        for mine, other in zip(gsl.backbone(batch.pixels), fd.backbone(batch.pixels), strict=True):
            torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)
        for mine, other in zip(detect(gsl, images), detect(fd, images), strict=True):
            torch.testing.assert_close(mine.scores, other.scores, atol=1e-5, rtol=0)
            torch.testing.assert_close(mine.boxes, other.boxes, atol=1e-3, rtol=0)


def test_fd_wt_takes_the_head_too_and_freezes_as_the_baseline(tmp_path):
    gsl = enliven(build("retina", "gsl"))
    fd = build("retina", "fd", request(gsl=learnt(gsl, tmp_path)), begin="transferred", scales_of="gsl")
    for name, tensor in gsl.head.state_dict().items():
        assert torch.equal(fd.head.state_dict()[name], tensor)
    assert {name.split(".")[1] for name, p in fd.named_parameters() if not p.requires_grad} == {"conv1", "bn1", "layer1"}


def test_a_transfer_between_networks_that_do_not_match_names_the_block(tmp_path):
    other = saved(build("c4", "gsl", request("proxy")), tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=r"does not match this row's net; allowed are the weights of its GSL row") as caught:
        transfer(faster_rcnn_c4(request()), other)
    assert "\n" not in str(caught.value)
    weights = load_file(saved(build("c4", "gsl"), tmp_path / "weights.safetensors"))
    weights["backbone.layer3.1.conv2.weight"] = weights["backbone.layer3.1.conv2.weight"][:-1]
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=r"R42 \(conv2.weight\) does not match"):
        transfer(faster_rcnn_c4(request()), tmp_path / "weights.safetensors")


def test_a_block_without_a_scale_or_with_a_broken_one_is_named():
    scales = {"R31": (1.2, 1.3)}
    with pytest.raises(UserError, match="R32: no scale is given for it, only for R31"):
        deploy(retinanet(request()), scales)
    with pytest.raises(UserError, match=r"R31: scales \(-1, 1\)"):
        deploy(retinanet(request()), {"R31": (-1.0, 1.0)})


def test_weights_of_other_scales_are_not_taken(tmp_path):
    """The printed scales and these give parts of the same shape in R42, but not the same dilations."""
    scales = dict(printed_averages("c4", (1, 2, 2, 2)))
    one, other = faster_rcnn_c4(request()), faster_rcnn_c4(request())
    deploy(one, scales)
    deploy(other, scales | {"R42": (scales["R42"][0] + 1, scales["R42"][1] + 1)})
    with pytest.raises(UserError, match=r"layer3.1.conv2: weights of dilations \[\[9, 10\], \[10, 11\]\], built for \[\[8, 9\], \[9, 10\]\]"):
        one.load_state_dict(other.state_dict())


def test_fd_does_not_learn_with_scales_that_no_run_learnt(tmp_path):
    with pytest.raises(UserError, match=r"gsl: its run is needed for the scales"):
        build("c4", "fd", request(**{PRETRAINED: pretrained(tmp_path)}), scales_of="gsl")


def test_the_record_holds_what_was_decomposed(tmp_path):
    fd = build("c4", "fd", request(gsl=learnt(enliven(build("c4", "gsl")), tmp_path)), scales_of="gsl")
    plans = {entry[0]: entry[1] for entry in fd.config.regions if isinstance(entry, tuple)}
    assert list(plans) == list(blocks_of(fd))
    assert all(plans[name] is block.conv2.plan for name, block in blocks_of(fd).items())
