"""Rows across papers: their parts by id, what their digests cover, and that each part does to the detector what it does at home."""

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bench.catalogue import built, catalogue, printing
from bench.cost import cost_record
from bench.datasets.source import Data
from bench.derive import keep
from bench.digest import closure
from bench.meters.compressed import compressed_values
from bench.meters.counted import count
from bench.plan import Choice, everything, owner_of, plan, source_of
from bench.scales import SCALES
from bench.spec import CostRule, Request, Train
from bench.speedup import source_of as timed_against
from bench.types import Unavailable, UserError, detect
from implementations.combinations.paper import PAPER, Part
from implementations.compression.blocks import layers_of
from implementations.compression.eight_bits import EightBits
from implementations.compression.elsewhere import Elsewhere, compress_elsewhere, joined, ranges_apart
from implementations.compression.int8 import Int8Part
from implementations.compression.model import Compression
from implementations.compression.pruning import zeros
from implementations.layers.weights import fill
from implementations.pod.averages import printed_averages
from implementations.pod.deployment import Abreast

CLASSES = 4


def images(count=4):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, 96, 128, generator=generator) for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("weights")


def base_of(row):
    """The row's base as its own paper builds it, at the smoke tier with random weights."""
    part = row.arguments["base"]
    torch.manual_seed(0)
    return part.do(Request(row.setting, SCALES["smoke"], CLASSES), **part.arguments).eval()


def made(key, folder):
    """A row of ours from its base's weights, and that base."""
    row = PAPER.row(key)
    base = base_of(row)
    path = folder / f"{row.arguments['weights']}.safetensors"
    save_file({name: tensor.clone().contiguous() for name, tensor in base.state_dict().items()}, path)
    inputs = {row.arguments["weights"]: path}
    for name in row.needs[1:]:  # a GSL run, whose scales stand beside its weights: those that its paper prints
        key = name.partition(".")[2]
        inputs[key] = folder / key / "weights.safetensors"
        scales = printed_averages(row.arguments["base"].arguments["detector"], SCALES["smoke"].backbones[row.setting.backbone].blocks)
        keep(
            {"scales": {"train": {f"{block}_{d}": value for block, pair in scales.items() for d, value in zip("hw", pair, strict=True)}}},
            folder / key,
        )
    found = row.build(Request(row.setting, SCALES["smoke"], CLASSES, inputs), **row.arguments)
    return found.eval(), base


# ---- parts, needs, digests


def test_each_part_is_a_row_of_a_paper_and_is_named():
    papers = built()
    for row in PAPER.rows:
        parts = [row.arguments["base"], *row.arguments["then"]]
        for part in parts:
            paper, _, key = part.id.partition(".")
            assert papers[paper].row(key)
            assert part.id in row.notes
        needed = [f"{owner.key}.{key}" for owner, key in (owner_of(PAPER, need) for need in row.needs)]
        assert all(papers[name.partition(".")[0]].row(name.partition(".")[2]).recipe for name in needed)


def test_the_combinations_of_the_plan_are_all_there():
    made_of = {row.key: {row.arguments["base"].id, *(part.id for part in row.arguments["then"])} for row in PAPER.rows}
    assert made_of["condensed-pruned-int8"] == {"condensing.k16-l5", "compression.backbone-30", "compression.int8"}
    assert made_of["fd-c4-int8"] == {"pod.c4-r50-fd", "compression.int8"}
    assert made_of["light-s-int8"] == {"light_head.light-s", "compression.int8"}
    assert made_of["student-int8"] == {"mimicdet.deployed", "compression.int8"}


def test_a_run_waits_for_runs_of_other_papers_of_its_seed():
    runs = {run.id: run for run in plan([PAPER], Choice("proxy", seeds=2))}
    assert runs["combinations.condensed-int8.proxy.s1"].needs == ("condensing.k16-l5.proxy.s1",)
    assert runs["combinations.fd-c4-int8.proxy.s0"].needs == ("pod.c4-r50-gsl.proxy.s0", "pod.c4-r50-fd.proxy.s0")
    assert runs["combinations.condensed-pruned-tuned-int8.proxy.s0"].needs == ("combinations.condensed-pruned-tuned.proxy.s0",)
    own = {run.id: run for run in plan([built()["condensing"]], Choice("proxy"))}
    assert runs["condensing.k16-l5.proxy.s1"] == own["condensing.k16-l5.proxy.s1"]  # the very run, done once


def test_no_digest_changes_because_papers_are_named_beside_a_paper():
    condensing, choice = built()["condensing"], Choice("proxy", rows=("k16-l5", "svd"), seeds=1)
    alone = plan([condensing], choice)
    beside = plan([replace(condensing, others=tuple(built().values()))], choice)
    assert [run.digest for run in alone] == [run.digest for run in beside]


def digest_of(paper, key="condensed-pruned-int8"):
    return next(run.digest for run in plan([paper], Choice("proxy", rows=(key,))) if run.row == key)


def test_a_parts_arguments_and_source_belong_to_the_digest():
    row = PAPER.row("condensed-pruned-int8")
    base, (pruned, int8) = row.arguments["base"], row.arguments["then"]
    others = [
        {"then": (Part(pruned.id, pruned.do, {**pruned.arguments, "sparsity": 0.4}), int8)},
        {"then": (int8,)},
        {"base": Part(base.id, base.do, {**base.arguments, "key_parts": 8})},
    ]
    seen = {digest_of(PAPER)}
    for more in others:
        changed = replace(row, arguments=MappingProxyType({**row.arguments, **more}))
        seen.add(digest_of(replace(PAPER, rows=tuple(changed if each.key == row.key else each for each in PAPER.rows))))
    assert len(seen) == 1 + len(others)
    source = closure(source_of(Data("scenes", "scenes-v1"), row))
    for place in (
        "implementations.condensing.model:CondensedHead",
        "implementations.compression.elsewhere:lower",
        "implementations.compression.int8:Int8Part",
    ):
        assert place in source
    assert not any(name.startswith("implementations.mimicdet.model") for name in source)


def test_it_prints_nothing_and_judges_nothing():
    entry = catalogue()["combinations"]
    assert (entry.published.tables, entry.published.claims) == ((), ())
    assert "combinations" not in printing()
    assert entry.paper.row("fd-c4-int8")


def test_its_folder_imports_no_paper():
    source = "".join(path.read_text() for path in (Path(__file__).parents[1] / "implementations" / "combinations").glob("*.py"))
    assert not any(f"implementations.{key}" in source for key in printing())


def test_everything_holds_each_run_once():
    runs = everything(built().values(), Choice("proxy"))
    assert len({run.id for run in runs}) == len(runs)
    assert {run.id for run in runs} >= {f"combinations.{row.key}.proxy.s0" for row in PAPER.rows}


def test_a_row_is_timed_against_what_it_is_made_of():
    assert timed_against("combinations", PAPER.row("condensed-pruned-int8")) == "condensing.k16-l5"
    assert timed_against("combinations", PAPER.row("condensed-pruned-tuned-int8")) == "combinations.condensed-pruned-tuned"


# ---- what the parts do


def test_the_backbone_is_pruned_and_nothing_else(folder):
    found, base = made("condensed-pruned", folder)
    layers = layers_of(found, "backbone")
    total = sum(layer.module.weight.numel() for layer in layers)
    assert zeros(layers) == round(0.3 * total)
    for name, tensor in found.state_dict().items():
        same = torch.equal(tensor, base.state_dict()[name])
        assert same or name.startswith(("backbone", "neck"))


def test_tuning_holds_the_zeros(folder):
    row = PAPER.row("condensed-pruned-tuned")
    assert any(isinstance(step, Train) for step in row.recipe)
    found, _ = made("condensed-pruned-tuned", folder)
    before = zeros(layers_of(found, "backbone"))
    from bench.types import Target

    none = torch.zeros(2, dtype=torch.bool)
    target = Target(torch.tensor([[5.0, 5, 60, 60], [40, 20, 120, 90]]), torch.tensor([0, 1]), none, none.clone(), seed=1)
    optimizer = torch.optim.AdamW([p for p in found.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        sum(found.train()(images(1), [target]).values()).backward()
        optimizer.step()
    assert zeros(layers_of(found, "backbone")) == before


@pytest.mark.parametrize("key", ["condensed-int8", "fd-c4-int8", "fd-retina-int8", "light-s-int8", "student-int8"])
def test_on_8_bits_it_costs_what_its_base_costs_and_says_nearly_the_same(key, folder):
    """Multiply-adds are those of the base with its weights, by the plain meter; bit operations are fewer; scores of the best boxes are near."""
    found, base = made(key, folder)
    found.compression.calibrate(found, images())
    values = compressed_values(found)
    counted = count(base.parts(base.config.shorter, base.config.longer), CostRule(scope="model", rois=1000)).total.macs / 1e9
    assert values["own_macs_g"] == pytest.approx(counted, rel=1e-9)
    assert values["own_bops_g"] < 0.3 * counted * 32 * 32
    assert values["own_stored_mb"] < 0.4 * 4e-6 * sum(tensor.numel() for tensor in base.state_dict().values())
    with torch.inference_mode():
        ours, theirs = detect(found, images()), detect(base, images())
    for a, b in zip(ours, theirs, strict=True):
        best = min(5, len(a.scores), len(b.scores))
        assert torch.allclose(a.scores[:best], b.scores[:best], atol=0.08)


def test_what_stays_float32_or_in_pieces_is_named(folder):
    condensed, _ = made("condensed-int8", folder)
    assert "regions.head (in pieces)" in condensed.compression.kernels
    assert isinstance(condensed.regions.head.fc, Int8Part)
    student, _ = made("student-int8", folder)
    assert "regions.student.aligned" in student.compression.kernels
    assert not any(isinstance(module, Int8Part) for module in student.regions.student.aligned.modules())
    fd, _ = made("fd-c4-int8", folder)
    assert fd.compression.kernels == "int8 kernels"


def test_an_int8_combination_says_that_it_is_not_calibrated(folder):
    found, _ = made("light-s-int8", folder)
    with pytest.raises(Unavailable, match="calibrate"):
        detect(found, images(1))


def test_at_the_papers_scale_a_mask_is_counted_and_8_bits_are_left_to_their_run():
    pruned, int8 = (cost_record(PAPER, PAPER.row(key)) for key in ("condensed-pruned", "condensed-int8"))
    whole = cost_record(
        PAPER, replace(PAPER.row("condensed-pruned"), build=base_builder, arguments=PAPER.row("condensed-pruned").arguments["base"].arguments)
    )
    assert pruned.values["model_macs_g"] == whole.values["model_macs_g"]
    assert pruned.values["model_params_m"] < 0.9 * whole.values["model_params_m"]
    assert (int8.status, "its record" in int8.reason) == ("skipped", True)


def base_builder(request, **arguments):
    """Of the condensed detector alone."""
    return PAPER.row("condensed-pruned").arguments["base"].do(request, **arguments)


# ---- parts side by side


class Narrow(nn.Module):
    """Two convolutions side by side, the second's numbers a hundred times the first's, and one behind them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        first, second = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        second.weight.data.mul_(100)
        self.both, self.behind = Abreast([first, second]), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.behind(self.both(x))


def lowered_error(part):
    """The largest error of a part on int8, as a share of its largest answer."""
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    part.requires_grad_(requires_grad=False)
    wanted = part.eval()(x)
    whole = Int8Part(part, 1).eval()
    whole.watch()
    whole(x)
    whole.settle()
    return float((whole(x) - wanted).abs().max() / wanted.abs().max())


@pytest.mark.filterwarnings("ignore:All inputs of this cat")
def test_maps_side_by_side_keep_their_own_ranges():
    """Joined on int8 the second's numbers are cut at the first's largest; joined in float32 all are within a step or two of 127."""
    assert lowered_error(Narrow()) > 0.5
    assert lowered_error(ranges_apart(Narrow())) < 0.03


# ---- plans, weights


def test_a_plan_names_what_was_pruned_before_at_the_precision_of_now():
    before, after = Compression(block="backbone", sparsity=0.3), Compression(precision="int8")
    assert joined(before, after) == Compression(block="backbone", sparsity=0.3, precision="int8")
    assert joined(None, after) == after
    with pytest.raises(UserError, match="two prunings"):
        joined(before, Compression(sparsity=0.1))


def test_the_plan_on_the_detector_answers_as_a_compression_does(folder):
    found, _ = made("condensed-pruned-int8", folder)
    assert isinstance(found.compression, EightBits)
    assert isinstance(found.compression.plan, Elsewhere)
    assert found.compression.bits == (8, 8)
    assert found.compression.faster
    assert found.compression.images == 64
    assert not compress_elsewhere(base_of(PAPER.row("condensed-pruned")), block="backbone", sparsity=0.3).compression.faster


def test_weights_that_do_not_fit_are_named(tmp_path):
    net = nn.Linear(3, 2)
    save_file({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="weight is missing, unknown or of another shape"):
        fill(net, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="cannot be read"):
        fill(net, tmp_path / "none.safetensors")
