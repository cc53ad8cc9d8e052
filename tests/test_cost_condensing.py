"""The cost columns of Condensing's Tables 3 and 4, by formulas of their own: no number here comes from the code that is tested."""

import io
import os
import resource
import subprocess
import sys
from dataclasses import replace
from math import ceil

import pytest
import torch
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from bench.catalogue import catalogue, find_paper
from bench.claims import decide
from bench.cost import build_on_meta, channel_first, cost_record, cost_records
from bench.cost_table import print_costs
from bench.evidence import Evidence
from bench.meters.bytes import MIB
from bench.meters.params import count_params
from bench.scales import SCALES
from bench.tables import compare
from bench.types import Unavailable

PAPER = find_paper("condensing")
PUBLISHED = catalogue()["condensing"].published
CELLS = 7 * 7
ROIS = 1000


@pytest.fixture(scope="module")
def records():
    return {record.row: record for record in cost_records(PAPER)}


# ---- the heads by arithmetic: (parameters, multiply-adds an image, multiply-adds a RoI) by mmdet's rule


def linear(inputs, outputs):
    """Biases are parameters and no multiply-adds."""
    return inputs * outputs + outputs, inputs * outputs


def conv(inputs, outputs, cells, *, kernel=1, groups=1, bias=True):
    """A bias is one more an output element."""
    weights = inputs // groups * outputs * kernel * kernel
    return weights + outputs * bias, (weights + outputs * bias) * cells


def total(*layers):
    return tuple(map(sum, zip(*layers, strict=True)))


def outputs(width, classes, boxes):
    return total(linear(width, classes + 1), linear(width, 4 * boxes))


def two_layers(classes, boxes):
    return total(linear(256 * CELLS, 1024), linear(1024, 1024), outputs(1024, classes, boxes))


def bottleneck(inputs, cells=CELLS):
    """1x1 to 512, 3x3, 1x1 to 2048, all on 7x7 (the first 1x1 strides); batch norm 2 an element twice: parameters and operations."""
    convs = [(inputs, 512, 1), (512, 512, 3), (512, 2048, 1)] + ([(inputs, 2048, 1)] if inputs != 2048 else [])
    layers = [conv(i, o, cells, kernel=k, bias=False) for i, o, k in convs]
    norms = [(2 * o, 2 * o * cells) for _, o, _ in convs]
    activations = (0, (512 + 512 + 2048) * cells)
    return total(*layers, *norms, activations)


def last_stage(classes, boxes):
    pooling = (0, 2048 * CELLS)
    return total(bottleneck(1024), bottleneck(2048), bottleneck(2048), pooling, outputs(2048, classes, boxes))


def condensed(channels, key_parts, length, blocks, after):
    """n blocks, K maps, 1x1 to a quarter on all 49 cells, then pooled; `after` is given the width of the vector."""
    narrow, quarter = channels // 8, channels // 4
    block = total(conv(channels, narrow, CELLS, kernel=3, groups=channels // 64), conv(narrow, channels, CELLS))
    # groups = C / 64: each group of eight filters sees 64 channels
    width = quarter * length**2 + CELLS * key_parts + channels * key_parts
    pooling = (0, quarter * CELLS)
    return total(*([block] * blocks), conv(channels, key_parts, CELLS), conv(channels, quarter, CELLS), pooling, *after(width))


def with_fc(classes, boxes):
    return lambda width: (linear(width, 1024), outputs(1024, classes, boxes))


def position_sensitive(cells, classes):
    """1x1 2048 to 1024, one map a class, coordinate and cell of 7x7; box deltas shared by the classes; the vote averages 49 cells."""
    maps = (classes + 1 + 4) * CELLS
    fixed = total(conv(2048, 1024, cells), conv(1024, maps, cells))
    return fixed[0], fixed[1], maps


def condensed_position_sensitive(cells, classes):
    fixed = conv(2048, 256, cells)
    roi = condensed(256, 16, 3, 2, lambda width: (outputs(width, classes, classes + 1),))
    return fixed[0] + roi[0], fixed[1], roi[1]


def expected(key):
    """(parameters, fixed, per RoI) of a row; VOC at 600x1000 and COCO at 800x1333 are 38x63 and 50x84 cells at stride 16."""
    name, coco = key.removesuffix("-coco"), key.endswith("-coco")
    classes, cells = (80, 50 * 84) if coco else (20, 38 * 63)
    boxes = classes + 1
    if name == "rfcn":
        return position_sensitive(cells, classes)
    if name == "ours-rfcn":
        return condensed_position_sensitive(cells, classes)
    heads = {
        "fpn-r101": lambda: two_layers(classes, boxes),
        "faster-c4": lambda: last_stage(classes, boxes),
        "cascade": lambda: total(*[two_layers(classes, 1)] * 3),
        "ours-fpn": lambda: condensed(256, 16, 5, 2, with_fc(classes, boxes)),
        "ours-faster": lambda: condensed(1024, 4, 3, 4, with_fc(classes, boxes)),
        "ours-cascade": lambda: total(*(condensed(256, 16, 5, blocks, with_fc(classes, 1)) for blocks in (2, 3, 4))),
    }
    parameters, macs = heads[name]()
    return parameters, 0, macs


# The column "ours" of shared/papers/costs.md, worked out apart from this code: parameters in millions, MiB rounded up, GMAC.
WORKED_OUT = {
    "fpn-r101": (14.003, 54, 14.001),
    "faster-c4": (15.180, 59, 734.04),
    "cascade": (41.764, 160, 41.758),
    "ours-fpn": (6.819, 27, 10.392),
    "ours-faster": (7.953, 31, 60.300),
    "ours-cascade": (20.290, 78, 34.886),
    "rfcn": (3.354, 13, 8.03),
    "ours-rfcn": (1.172, 5, 5.48),
    "fpn-r101-coco": (14.311, 55, 14.308),
    "faster-c4-coco": (15.795, 61, 734.65),
    "cascade-coco": (41.948, 161, 41.942),
    "ours-fpn-coco": (7.126, 28, 10.699),
    "ours-faster-coco": (8.261, 32, 60.607),
    "ours-cascade-coco": (20.475, 79, 35.070),
    "rfcn-coco": (6.367, 25, 26.75),
    "ours-rfcn-coco": (2.809, 11, 8.06),
}


def key_parts_pooled(key):
    """costs.md counts the maximum over each confidence map as a pooling of 49 elements; our code finds it without a pooling."""
    name = key.removesuffix("-coco")
    maps = {"ours-fpn": 16, "ours-faster": 4, "ours-cascade": 3 * 16, "ours-rfcn": 16}
    return maps.get(name, 0) * CELLS * ROIS / 1e9


@pytest.mark.parametrize("key", sorted(WORKED_OUT))
def test_parameters_and_macs_are_those_of_the_arithmetic(records, key):
    parameters, fixed, roi = expected(key)
    values = records[key].values
    assert values["params_m"] * 1e6 == pytest.approx(parameters, abs=0.5)
    assert values["macs_fixed_g"] * 1e9 == pytest.approx(fixed, abs=0.5)
    assert values["macs_per_roi_g"] * 1e9 == pytest.approx(roi, abs=0.5)
    assert values["macs_g"] * 1e9 == pytest.approx(fixed + ROIS * roi, rel=1e-12)
    assert records[key].context["unknown"] == []


@pytest.mark.parametrize("key", sorted(WORKED_OUT))
def test_two_ways_of_working_it_out_agree(records, key):
    parameters, size, macs = WORKED_OUT[key]
    values = records[key].values
    assert values["params_m"] == pytest.approx(parameters, abs=0.0006)
    assert values["size_mb"] == size
    assert values["macs_g"] + key_parts_pooled(key) == pytest.approx(macs, abs=0.006 if "faster" in key or "rfcn" in key else 0.0006)


# ---- what is printed


@pytest.fixture(scope="module")
def evidence(records):
    return Evidence(PAPER, PUBLISHED, tuple(records.values()))


def test_at_least_41_of_the_50_cost_cells_and_claims_are_reproduced(evidence):
    cells = [outcome for outcome in compare(PAPER, PUBLISHED, evidence) if outcome.kind == "cost"]
    claims = [outcome for outcome in decide(PAPER, PUBLISHED, evidence) if outcome.key in ("faster-params", "faster-macs")]
    reproduced = [one for one in (*cells, *claims) if one.outcome == "reproduced"]
    assert (len(cells), len(claims)) == (48, 2)
    assert len(reproduced) >= 41
    missed = {(cell.key, cell.column) for cell in cells if cell.outcome != "reproduced"}
    assert all("rfcn" in key for key, _ in missed), missed


def test_k1_l1_saves_96_per_cent(records):
    parameters = [condensed(256, 1, 1, 2, with_fc(20, 21))[0], two_layers(20, 21)[0]]
    saved = 100 * (1 - records["k1-l1"].values["params_m"] / records["fpn-r50"].values["params_m"])
    assert saved == pytest.approx(100 * (1 - parameters[0] / parameters[1]))
    assert saved > 96


# ---- Figure 4 and Table 2


@pytest.mark.parametrize(("key", "key_parts", "length"), [("k16-l5", 16, 5), ("k1-l1", 1, 1), ("k4-l3", 4, 3), ("k8-l4", 8, 4), ("no-global", 16, 0)])
def test_the_sweep_of_key_parts_and_length(records, key, key_parts, length):
    parameters, _ = condensed(256, key_parts, length, 2, with_fc(20, 21))
    unused = 0 if length else conv(256, 64, 1)[0]  # no global modelling, no 1x1
    assert records[key].values["params_m"] * 1e6 == pytest.approx(parameters - unused, abs=0.5)


@pytest.mark.parametrize(("key", "channels", "side"), [("ch-half", 128, 7), ("ch-quarter", 64, 7), ("side-5", 256, 5), ("side-3", 256, 3)])
def test_the_reductions_without_key_parts(records, key, channels, side):
    narrowed = conv(256, channels, CELLS)[0] if channels < 256 else 0
    parameters = narrowed + total(linear(channels * side**2, 1024), linear(1024, 1024), outputs(1024, 20, 21))[0]
    assert records[key].values["params_m"] * 1e6 == pytest.approx(parameters, abs=0.5)


def test_svd_halves_the_head(records):
    assert records["svd"].values["params_m"] / records["fpn-r50"].values["params_m"] == pytest.approx(0.5, abs=0.001)


# ---- Eq. 9 beside the printed order


def test_eq_9_pools_first_and_is_cheaper(records):
    for key, channels, length, heads in (("ours-fpn", 256, 5, 1), ("ours-faster", 1024, 3, 1), ("ours-cascade", 256, 5, 3)):
        values = records[key].values
        quarter = channels // 4
        spared = (channels + 1) * quarter * (CELLS - length**2) - (channels - quarter) * CELLS  # and the pooling sees C instead of C / 4
        assert (values["macs_g"] - values["macs_g_eq9"]) * 1e9 == pytest.approx(heads * spared * ROIS, rel=1e-9), key
        assert "Eq. 9" in records[key].context["channel_first"]


def test_both_orders_have_the_same_parameters_and_the_flag_goes_back():
    detector = build_on_meta(PAPER.row("ours-fpn"), SCALES["smoke"])
    able = [module for module in detector.modules() if hasattr(module, "channel_first")]
    with channel_first(detector, on=True):
        assert all(module.channel_first for module in able)
    assert [module.channel_first for module in able] == [False]


# ---- size


def test_the_size_is_that_of_a_file_on_disk(records, tmp_path):
    row = PAPER.row("ours-fpn")
    head = {part.name: part.module for part in build_on_meta(row, SCALES["paper"]).parts(600, 1000) if part.head}
    weights = {f"{name}.{key}": torch.zeros(value.shape) for name, module in head.items() for key, value in module.state_dict().items()}
    torch.save(weights, tmp_path / "head.pth", _use_new_zipfile_serialization=False)
    assert records["ours-fpn"].values["size_mb"] == ceil((tmp_path / "head.pth").stat().st_size / MIB)


# ---- the whole model, and every row


def test_every_row_is_counted_without_a_gap(records):
    assert {row.key for row in PAPER.rows} == set(records)
    for record in records.values():
        assert (record.status, record.reason) == ("ok", "")
        assert record.context["unknown"] == record.context["model_unknown"] == []
        assert record.values["model_params_m"] > record.values["params_m"]
        assert {"convention", "size_convention", "input", "rois"} <= record.context.keys()


def test_the_whole_fpn_is_torchvisions(records):
    """ResNet-50 FPN of torchvision at 21 classes, its frozen norms counted; only the scale and shift of its norms stand apart."""
    with torch.device("meta"):
        theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=21)
    assert records["fpn-r50"].values["model_params_m"] == pytest.approx(count_params(theirs) / 1e6, rel=1e-9)


def test_fewer_rois_cost_less_in_proportion():
    """At 300 RoIs the second stage costs three tenths of that at 1000: the fixed part has no head."""
    paper = replace(PAPER, costs=replace(PAPER.costs, rois=300))
    assert cost_record(paper, PAPER.row("fpn-r50")).values["macs_g"] * 1e9 == pytest.approx(300 * two_layers(20, 21)[1])


def test_other_settings_are_caught(records):
    row = PAPER.row("ours-fpn")
    for arguments in ({"key_parts": 15, "length": 5}, {"key_parts": 16, "length": 4}):
        broken = cost_record(PAPER, replace(row, arguments=arguments))
        with_broken = Evidence(PAPER, PUBLISHED, tuple((records | {"ours-fpn": broken}).values()))
        turned = [cell for cell in compare(PAPER, PUBLISHED, with_broken) if cell.key == "ours-fpn" and cell.kind == "cost"]
        assert {cell.outcome for cell in turned} != {"reproduced"}


# ---- what cannot be counted says so


def unavailable(_request):
    raise Unavailable("no weights in the open")


def broken(_request):
    raise ZeroDivisionError("by nothing")


def test_a_row_that_cannot_be_built_is_a_record_with_a_reason():
    row = PAPER.row("fpn-r50")
    skipped, failed = (cost_record(PAPER, replace(row, build=build)) for build in (unavailable, broken))
    assert (skipped.status, skipped.reason) == ("skipped", "no weights in the open")
    assert (failed.status, failed.reason) == ("failed", "ZeroDivisionError: by nothing")
    assert not skipped.values


def test_the_listing_names_convention_and_rois(records):
    console = Console(file=io.StringIO(), width=200)
    row = replace(PAPER.row("fpn-r50"), build=unavailable)
    print_costs((records["ours-fpn"], cost_record(PAPER, row)), console)
    text = console.file.getvalue()
    assert "mmdet" in text
    assert "1000 RoIs" in text
    assert "skipped: no weights" in text


def test_counting_waits_neither_for_torchvision_nor_for_the_compiler():
    """Each takes as long to import as torch itself; `leandet cost` has six seconds for everything."""
    lazy = ["torchvision", *(["torch._dynamo"] if hasattr(TorchDispatchMode, "_should_skip_dynamo") else [])]  # older torch does not let us
    script = "import sys; from bench.catalogue import find_paper; from bench.cost import cost_records; cost_records(find_paper('condensing'));"
    script += f"sys.exit(', '.join(name for name in {lazy} if name in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_the_costs_of_all_papers_take_less_than_ten_seconds(tmp_path):
    """Of a processor's time, so that what runs beside the test counts for nothing."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "LEANDET_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "bench.cli", "cost", "--quiet"], env=environment, check=False, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 10
