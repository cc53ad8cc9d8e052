"""One set of weights through ours, torchvision, mmdet and detectron2: the same answers where the definitions are ours, and maps of names that fit."""

from __future__ import annotations

import importlib.util
from functools import cache
from types import SimpleNamespace

import pytest
import torch

from bench.contract import photograph
from implementations.adapters.definitions import ANCHORS, APPLY, DIFFERENCES, Grid, anchors, as_ours, grid_of, swapped
from implementations.adapters.library_names import fits, theirs_named
from implementations.adapters.same_weights import NAMES, alike, beside, builders, cells, request_of, rows, theirs, trained, with_random_weights
from implementations.layers.anchors import Anchors

SIDES = (320, 533)
PAIRS = sorted(NAMES)
pytestmark = pytest.mark.filterwarnings("ignore")  # of somebody else's packages


def pairs(*libraries, kinds=("faster_rcnn", "retinanet", "cascade_rcnn")):
    return [
        pytest.param(
            *pair, marks=pytest.mark.skipif(importlib.util.find_spec(pair[0]) is None, reason=f"{pair[0]} is not installed; nox -s {pair[0]}")
        )
        for pair in PAIRS
        if pair[0] in libraries and pair[1] in kinds
    ]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@cache
def ours(kind):
    return with_random_weights(kind, request_of(SIDES))


# ---- without them


def test_every_difference_is_said_both_ways_and_every_pair_lists_its_own():
    assert {key for keys in APPLY.values() for key in keys} == set(DIFFERENCES)
    assert set(APPLY) == set(NAMES)
    assert all(each.ours and each.theirs and each.ours != each.theirs for each in DIFFERENCES.values())


@pytest.mark.parametrize("kind", ["faster_rcnn", "retinanet"])
def test_the_anchors_that_are_switched_to_are_ours(kind):
    with torch.device("meta"):
        detector = builders()[kind](request_of(SIDES))
    grid = grid_of(detector)
    cells_of = [(-(-320 // stride), -(-448 // stride)) for stride in grid.strides]
    wanted = Anchors(grid.sizes, grid.ratios)(tuple(cells_of), (320, 448), torch.device("cpu"))
    assert torch.equal(torch.cat(anchors(grid, cells_of, (), by_side=False)), wanted)


def test_a_cells_anchors_side_by_side():
    grid = Grid(((32.0, 64.0),), (1.0, 4.0), (16,), 32.0)
    (shapes,), (sides,) = (anchors(grid, [(1, 1)], ("anchor corners",), by_side=by_side) for by_side in (False, True))
    assert [round(float(x2 - x1)) for x1, _, x2, _ in shapes] == [32, 64, 16, 32]
    assert [round(float(x2 - x1)) for x1, _, x2, _ in sides] == [32, 16, 64, 32]


def test_a_switch_is_undone():
    holder = SimpleNamespace(value=1)
    with swapped((holder, "value", 2)):
        assert holder.value == 2
    assert holder.value == 1


@pytest.mark.parametrize(("library", "kind"), PAIRS)
def test_every_tensor_of_ours_has_one_name_there(library, kind):
    with torch.device("meta"):
        state = builders()[kind](request_of(SIDES)).state_dict()
    assert len(theirs_named(state, library, kind)) == len(state)


def test_what_does_not_fit_is_said():
    state = {"a": torch.zeros(2), "b": torch.zeros(1), "n.num_batches_tracked": torch.tensor(0)}
    assert list(fits({"a": torch.zeros(3), "c": torch.zeros(1)}, state)) == [
        "a: (3,) there, (2,) from ours",
        "b: it has no such tensor",
        "c: nothing of ours becomes it",
    ]


# ---- with them


@pytest.mark.parametrize(("library", "kind"), pairs("torchvision", "mmdet", "detectron2"))
def test_the_same_answers_where_the_definitions_are_ours(library, kind):
    mine = ours(kind)
    other = theirs(library, kind, mine, request_of(SIDES))
    for size in ((150, 200), (160, 120)):
        found, same = beside(library, kind, (mine, other), size, ())
        assert found.same, found
        assert found.found[0] == same >= 20


@pytest.mark.parametrize(("library", "kind"), pairs("mmdet", "detectron2"))
def test_each_definition_of_theirs_is_back_afterwards(library, kind):
    """Nothing of ours is left in a model that has been switched: it answers as before."""
    mine = ours(kind)
    other = theirs(library, kind, mine, request_of(SIDES))
    image = photograph(150, 200)
    with torch.inference_mode():
        before = other.finish(other.network(other.prepare([image])))[0]
        with as_ours(library, kind, other, grid_of(mine)):
            switched = other.finish(other.network(other.prepare([image])))[0]
        after = other.finish(other.network(other.prepare([image])))[0]
    assert torch.equal(before.boxes, after.boxes)
    assert alike(before, switched) < len(before.scores)


@pytest.mark.parametrize(("library", "kind"), pairs("mmdet", "detectron2", kinds=("faster_rcnn", "retinanet")))
def test_with_nothing_switched_the_anchors_are_their_own(library, kind):
    """Our formula without our roundings gives the library's anchors, so that each difference between the two has a name."""
    mine = ours(kind)
    model = theirs(library, kind, mine, request_of(SIDES)).model
    grid = grid_of(mine)
    shapes = [(-(-320 // stride), -(-448 // stride)) for stride in grid.strides]
    found = anchors(grid, shapes, ANCHORS, by_side=library == "detectron2")
    if library == "mmdet":
        wanted = (getattr(model, "rpn_head", None) or model.bbox_head).prior_generator.grid_priors(shapes, device="cpu")
    else:
        generator = getattr(model, "anchor_generator", None) or model.proposal_generator.anchor_generator
        wanted = [each.tensor for each in generator([torch.zeros(1, 1, *shape) for shape in shapes])]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["faster_rcnn", "retinanet", "cascade_rcnn"])
def test_the_whole_table_at_full_size_with_weights_that_learnt(kind):
    found = list(rows(kind, request_of((800, 1333)), [(375, 500)], libraries=[pair[0] for pair in PAIRS if importlib.util.find_spec(pair[0])]))
    assert all(row.good for row in found), [cells(row) for row in found if not row.good]
    assert {row.weights for row in found} == {"random", "trained"}


def test_a_short_training_moves_every_tensor_that_learns():
    mine = with_random_weights("retinanet", request_of((64, 96)))
    before = {name: tensor.clone() for name, tensor in mine.named_parameters()}
    trained(mine, steps=1)
    assert all(not torch.equal(before[name], tensor) for name, tensor in mine.named_parameters() if tensor.requires_grad)
