"""Light-Head R-CNN against the paper's arithmetic: costs, settings, images of several sizes, how it learns, and that objects have candidates."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from noise import photographs as pictures
from noise import target
from safetensors.torch import save_file
from torch import nn

from bench import detectors, places
from bench.assemble import build_detector
from bench.catalogue import find_paper
from bench.cost import build_on_meta
from bench.datasets import open_split, parse_data
from bench.meters.macs import count_macs
from bench.meters.rois import count_rois, hold_rois
from bench.scales import SCALES
from bench.spec import Request, Setting
from bench.subjects import Subject
from bench.types import UserError, detect
from implementations.layers.coverage import near_candidates, positive_candidates
from implementations.layers.heads import HeadShape
from implementations.layers.position_sensitive import PositionAlign
from implementations.light_head.model import LightHead, LightHeadRCNN, LightRCNN, LinearRCNN, at_scale, build_light_head

PAPER = find_paper("light_head")
TRAINED = [row.key for row in PAPER.rows if row.build is not None and row.recipe and not row.needs]
GEOMETRIES = ("b1", "b2", "faster-c5", "light-s", "pyramid")  # all that differ in anchors, strides or pixels


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def request(key="light-l", tier="smoke", classes=4, **inputs):
    return Request(PAPER.row(key).setting, SCALES[tier], classes, inputs)


def build(key, tier="smoke", classes=4):
    torch.manual_seed(0)
    return build_light_head(request(key, tier, classes), **PAPER.row(key).arguments)


# ---- subnets and the cost table, at 1000 RoIs and 800 x 1200


def test_a_light_subnet_by_hand():
    """490 -> 2048 -> 81 and 4 (paper) or 324 (code)."""
    for boxes, millions in ((1, 1.18), (81, 1.84)):
        subnet = LightRCNN(HeadShape(10, 7, 80, boxes, 2048))
        params = 491 * 2048 + 2049 * (81 + 4 * boxes)
        assert sum(p.numel() for p in subnet.parameters()) == params
        assert params / 1e6 == pytest.approx(millions, rel=0.005)
    assert not [module for module in subnet.modules() if isinstance(module, nn.Dropout)]
    features = torch.randn(3, 10, 7, 7)
    hidden = (features.flatten(1) @ subnet.fc.weight.T + subnet.fc.bias).relu()
    torch.testing.assert_close(subnet(features).scores, subnet.predictor(hidden).scores)


def test_plain_pooling_gives_49_times_the_features():
    few, many = (LinearRCNN(HeadShape(channels, 7, 80, 1, 0)).predictor.cls_score.in_features for channels in (10, 490))
    assert (few, many) == (490, 24010)


def parts_of(key):
    row = PAPER.row(key)
    detector = build_on_meta(row, SCALES["paper"])
    parts = detector.parts(row.setting.min_px, row.setting.max_px)
    return {
        part.name: (
            sum(p.numel() for p in part.module.parameters()) / 1e6,
            count_macs(part.module, *(torch.empty(shape, device="meta") for shape in part.inputs)).macs * (1000 if part.per_roi else 1) / 1e9,
        )
        for part in parts
    }


@pytest.mark.parametrize(("key", "part", "params", "macs"), [
    ("b2", "maps", 6.37, 23.9),
    ("thin-b2", "maps", 2.60, 9.7),
    ("light-l", "maps", 9.75, 36.5),
    ("light-l-code", "maps", 19.49, 73.1),
    ("light-l", "head", 1.18, 1.18),
    ("light-l-code", "head", 1.84, 1.83),
    ("light-s", "maps", 1.02, 0.97),
    ("faster-c5", "head", 15.1, 810),  # 15.8 with offsets for each class
    ("light-l", "rpn", 4.77, 17.9),
    ("light-s", "rpn", 0.69, 2.57),
    ("light-s", "backbone", 0.955, 2.73),
    ("light-s-700", "backbone", 0.955, 2.19),
])  # fmt: skip
def test_cost_table_of_the_heads(key, part, params, macs):
    """Millions and GMAC. Published counters give the proposal network two scores an anchor, ours has one: 0.1 to 1 %."""
    found = parts_of(key)[part]
    assert found == pytest.approx((params, macs), rel=0.011)


def test_maps_of_490_and_of_3969_channels():
    thin, scores = (build_on_meta(PAPER.row(key), SCALES["paper"]).regions.stem.net for key in ("light-l", "b2"))
    assert thin.branches[0][-1].out_channels == 10 * 7 * 7 == 490
    assert scores.score_maps.out_channels == 81 * 7 * 7 == 3969


def test_light_in_multiply_adds_holds_for_the_small_setting_alone():
    """Setting L's maps cost half as much again as R-FCN's; setting S's whole detector costs less than R-FCN's maps."""
    assert parts_of("light-l")["maps"][1] > 1.5 * parts_of("b2")["maps"][1]
    assert sum(macs for _, macs in parts_of("light-s").values()) < parts_of("b1")["maps"][1]


def test_a_pyramid_makes_thin_maps_on_four_levels():
    """P2 to P5 of 800 x 1200: 200 x 300, 100 x 150, 50 x 75, 25 x 38 positions; its proposals on 13 x 19 more."""
    positions = 200 * 300 + 100 * 150 + 50 * 75 + 25 * 38
    found = parts_of("pyramid")
    assert found["maps"][1] == pytest.approx(15 * (256 * 256 + 256 * 490) * positions / 1e9)
    assert found["rpn"][1] == pytest.approx((9 * 256 * 256 + 256 * 15) * (positions + 13 * 19) / 1e9)


# ---- settings


def test_paper_scale_is_the_papers():
    row = PAPER.row("light-l")
    detector = build_on_meta(row, SCALES["paper"])
    config, hard, settings = detector.config.regions
    rpn = detector.config.rpn
    assert (settings.kernel, settings.mid, settings.alpha, settings.branches) == (15, 256, 10, 1)
    assert (hard.count, hard.box_weight, config.box_classes) == (256, 2.0, 1)
    assert (config.nms, config.score, config.detections, config.weights) == (0.3, 0.0, 100, (10, 10, 5, 5))
    assert (rpn.anchor_sizes, rpn.ratios, rpn.channels) == (((32, 64, 128, 256, 512),), (0.5, 1, 2), 512)
    assert (rpn.candidates, rpn.proposals, rpn.nms) == ((12000, 6000), (2000, 1000), 0.7)
    assert (detector.config.shorter, detector.config.longer, detector.config.strides) == (800, 1200, (16, 16))
    assert detector.backbone.layer4[0].conv2.stride == (1, 1)
    assert detector.regions.stage.head.fc.out_features == 2048


def test_b1_is_the_original_and_setting_s_is_thinner():
    b1 = build_on_meta(PAPER.row("b1"), SCALES["paper"])
    assert b1.config.rpn.anchor_sizes == ((64, 128, 256, 512),)
    assert (b1.config.rpn.proposals, b1.config.regions[1].count, b1.config.regions[1].box_weight) == ((300, 300), 128, 1.0)
    assert (b1.config.shorter, b1.config.longer) == (600, 1000)
    small = build_on_meta(PAPER.row("light-s"), SCALES["paper"])
    assert (small.config.regions[2].mid, small.config.rpn.channels, small.config.strides) == (64, 256, (16, 32))
    assert isinstance(small.regions.stage.pool, PositionAlign)


@pytest.mark.parametrize("tier", SCALES)
def test_the_kernel_follows_the_map_and_the_record_says_so(tier):
    """15 cells of a map whose shorter side is 50: at each tier the same share of it, to the nearest odd count."""
    detector = build("light-l", tier) if tier != "paper" else build_on_meta(PAPER.row("light-l"), SCALES["paper"])
    settings = detector.config.regions[2]
    cells = 15 * detector.config.shorter / 800
    assert settings.kernel % 2 == 1
    assert abs(settings.kernel - cells) <= 1
    assert detector.regions.stem.net.branches[0][0].kernel_size == (settings.kernel, 1)


def test_thin_stays_thin_at_proxy_scale():
    """Ten classes: R-FCN's maps are 11 * 49 thick, thin ones 3 * 49, a quarter, as the channels are."""
    assert at_scale(LightHead(), request(tier="proxy")).alpha == 3
    sizes = {key: sum(p.numel() for p in build(key, "proxy", 10).regions.stem.parameters()) for key in ("b2", "thin-b2")}
    assert sizes["thin-b2"] < 0.65 * sizes["b2"]


@pytest.mark.parametrize("wrong", [{"maps": "thick"}, {"warping": "crop"}, {"branches": 3}, {"kernel": 14}, {"alpha": 0}, {"baseline": "B3"}])
def test_impossible_settings_are_named(wrong):
    with pytest.raises(UserError, match="LightHead"):
        LightHead(**wrong)


# ---- training on several sizes


def test_each_image_draws_a_side_of_its_own_by_its_seed():
    detector = build("ms-train", "proxy")
    images = pictures((96, 96), (96, 96), (60, 100))
    batch = detector.jitter(images, [target(seed=seed) for seed in (1, 2, 3)])
    sides, scale = set(detector.settings.scales), SCALES["proxy"]
    assert sides == {round(side * scale.size * scale.single_map) for side in (600, 700, 800, 900, 1000)}
    assert all(min(size) in sides or max(size) == detector.settings.longest for size in batch.sizes)
    assert batch.pixels.shape[2:] == tuple(-(-max(size[i] for size in batch.sizes) // 32) * 32 for i in (0, 1))
    for i, image in enumerate(images):
        alone = detector.jitter([image], [target(seed=i + 1)])
        height, width = alone.sizes[0]
        assert batch.sizes[i] == alone.sizes[0]
        assert torch.equal(batch.pixels[i, :, :height, :width], alone.pixels[0, :, :height, :width])
        assert batch.pixels[i, :, height:].abs().sum() == batch.pixels[i, :, :, width:].abs().sum() == 0


def test_all_sides_come_and_none_more_often():
    detector = build("ms-train")
    (image,) = pictures((16, 16))
    drawn = [detector.jitter([image], [target(seed=seed)]).sizes[0][0] for seed in range(300)]
    assert all(40 < drawn.count(side) < 80 for side in detector.settings.scales)


def test_at_test_the_size_is_one():
    detector = build("ms-train").eval()
    assert isinstance(detector, LightHeadRCNN)
    assert detector.prepare(pictures((96, 96))).sizes == build("nms-05").prepare(pictures((96, 96))).sizes
    assert set(detector.state_dict()) == set(build("light-l").state_dict())


# ---- only the test differs


def test_a_retested_row_takes_weights_as_they_are(tmp_path):
    from safetensors.torch import save_file

    source = build("align").eval()
    save_file({name: tensor.contiguous() for name, tensor in source.state_dict().items()}, tmp_path / "align.safetensors")
    retested = build_light_head(request("nms-05", align=tmp_path / "align.safetensors"), **PAPER.row("nms-05").arguments).eval()
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in retested.state_dict().items())
    assert (source.regions.config.nms, retested.regions.config.nms) == (0.3, 0.5)
    images = pictures((96, 96))
    with torch.inference_mode():
        raw = source.network(source.prepare(images))
        kept = [detector.finish(raw)[0] for detector in (source, retested)]
    limit = min(float(found.scores.min()) for found in kept if len(found.scores) == 100) if any(len(found.scores) == 100 for found in kept) else 0.0
    few, many = ({(*box, score) for box, score in zip(found.boxes.tolist(), found.scores.tolist(), strict=True) if score > limit} for found in kept)
    assert len(many) >= len(few) * 0.9


# ---- learning


@pytest.mark.parametrize("key", ["b1", "light-l", "faster-2fc", "light-s", "pyramid"])
def test_losses_of_a_batch_are_the_mean_of_its_images(key):
    detector = build(key).train()
    images = pictures((96, 96), (96, 96))
    targets = [target([8, 8, 60, 60], [30, 40, 90, 70], seed=4), target([20, 10, 50, 90], seed=4)]  # one seed: one size where sizes are drawn
    with torch.no_grad():
        together = detector(images, targets)
        alone = [detector([image], [one]) for image, one in zip(images, targets, strict=True)]
    for name, loss in together.items():
        torch.testing.assert_close(loss, (alone[0][name] + alone[1][name]) / 2, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("key", ["light-l", "thin-roi", "pyramid"])
def test_everything_learns_in_bfloat16(key):
    detector = build(key).train()
    targets = [target([8, 8, 60, 60], [30, 40, 90, 70], seed=1), target([20, 10, 50, 90], seed=2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = detector(pictures((96, 96), (96, 96)), targets)
    sum(losses.values()).backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []
    assert all(p.grad.abs().sum() > 0 for p in detector.regions.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("key", ["light-l", "b2", "light-s"])
def test_it_learns_two_pictures_by_heart(key):
    detector = build(key).train()
    images = pictures((96, 96), (96, 96))
    targets = [target([8, 8, 60, 60], [30, 50, 90, 80]), target([20, 10, 50, 90])]
    optimizer = torch.optim.AdamW(detector.parameters(), 2e-3)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, 2 * (1 - step / 200))
        optimizer.zero_grad()
        sum(detector(images, [replace(one, seed=2 * step + i) for i, one in enumerate(targets)]).values()).backward()
        optimizer.step()
    with torch.inference_mode():
        found = detect(detector.eval(), images)
    for one, wanted in zip(found, targets, strict=True):
        assert one.labels[: len(wanted.labels)].sort().values.tolist() == wanted.labels.sort().values.tolist()


# ---- enough positives


@pytest.mark.parametrize("key", GEOMETRIES)
@pytest.mark.parametrize("data", ["scenes-v1", "scenes-v1-crowded"])
def test_objects_have_a_positive_candidate(key, data):
    scenes = open_split(parse_data(data), "train")
    targets = [scenes.target(i) for i in range(200)]
    detector = build(key, "proxy", 10)
    assert positive_candidates(detector, targets, (128, 128)) >= 0.95
    assert near_candidates(detector, targets, (128, 128), 0.3) >= 0.9


@pytest.mark.parametrize("key", ["ms-train", "pyramid"])
def test_objects_have_a_positive_candidate_at_every_side(key):
    scenes = open_split(parse_data("scenes-v1"), "train")
    targets = [scenes.target(i) for i in range(200)]
    detector = build(key, "proxy", 10)
    for side in detector.settings.scales:
        detector.config = replace(detector.config, shorter=side, longer=detector.settings.longest)
        assert positive_candidates(detector, targets, (128, 128)) >= 0.95


def test_the_proxy_of_every_geometry_is_tested():
    """Rows outside GEOMETRIES share anchors, strides and pixels with one of them."""

    def geometry(key):
        config = build(key, "proxy", 10).config
        return config.shorter, config.longer, config.strides[:1], config.rpn.anchor_sizes, config.rpn.thresholds

    assert {geometry(key) for key in TRAINED} == {geometry(key) for key in GEOMETRIES}


def test_a_setting_of_its_own_is_followed():
    detector = build_light_head(Request(Setting("mine", 3, 400, 500, "R101"), SCALES["smoke"], 3, {}), maps="pointwise", subnet="light")
    assert (detector.config.shorter, detector.config.longer) == (86, 107)


@pytest.mark.parametrize("key", ["align", "ms-train", "pyramid"])
def test_every_form_of_the_detector_can_be_given_its_rois(key):
    """As the latency meter does, so that methods are timed with as many."""
    detector = build(key).eval()
    hold_rois(detector, 11)
    with torch.inference_mode():
        raw = detector.network(detector.prepare(pictures((48, 64))))
    assert count_rois(raw) == 11


def test_a_run_is_built_with_its_own_weights_where_its_body_lies_beside_them(monkeypatch, tmp_path):
    monkeypatch.setenv("LEANDET_HOME", str(tmp_path))
    paper, made = find_paper("light_head"), {}
    for key in ("body-b2", "light-l"):
        made[key] = build_detector(paper.row(key), SCALES["smoke"], 10, seed=1).state_dict()
        folder = places.run_folder(f"light_head.{key}.smoke.s0")
        folder.mkdir(parents=True)
        save_file(made[key], folder / "weights.safetensors")
    found = detectors.build(Subject("light_head.light-l.smoke.s0", "smoke"), "", 10).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in made["light-l"].items())
