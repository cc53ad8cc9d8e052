"""scenes: what its words promise, checked on pixels and by geometry of the test's own."""

import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from bench.datasets import open_split
from bench.datasets import scenes as drawn
from bench.datasets.scene_parts import BANK, OPAQUE, noise, sprite, textures
from bench.datasets.scene_plans import RECTANGLE, SCENES, Scenes, plan, single_plan
from bench.datasets.scene_variants import VARIANTS
from bench.datasets.source import CONTROLS, Data, parse_data
from bench.datasets.source import VARIANTS as VARIANT_NAMES
from bench.types import Split, UserError

V1 = Data("scenes", "scenes-v1")
COLOUR = Data("scenes", "scenes-v1-uninformative")


def things(name, count):
    return [thing for index in range(count) for thing in plan((SCENES | VARIANTS)[name], 0, index).things]


def parts_of(thing):
    return [(patch.shape, np.array(patch.box, float)) for patch in thing.patches[1:]]


# --- the same everywhere, and never twice -----------------------------------------------------------------------------------------------------


def test_splits_and_single_objects_share_no_image():
    images = [drawn.open_scenes(V1, split).pixels(range(250)) for split in ("train", "val", "test")]
    seen = [image.tobytes() for split in images for image in split]
    assert len(set(seen)) == 750
    scenes = replace(SCENES["scenes-v1"], canvas=64)
    alone = {str(single_plan(scenes, drawn.SINGLE_DOMAIN, index)) for index in range(200)}
    others = {str(single_plan(scenes, domain, index)) for domain in drawn.DOMAINS.values() for index in range(200)}
    assert len(alone) == 200
    assert not alone & others


def test_an_image_does_not_depend_on_those_drawn_before_it():
    forwards = drawn.SceneSplit("scenes-v1", SCENES["scenes-v1"], "val")
    backwards = drawn.SceneSplit("scenes-v1", SCENES["scenes-v1"], "val")
    last_first = backwards.pixels(range(19, -1, -1))[::-1]
    assert (forwards.pixels(range(20)) == last_first).all()
    fresh = drawn.SceneSplit("scenes-v1", SCENES["scenes-v1"], "val")
    for index in range(20):  # the truth asked for before the pixels and after
        assert (fresh.truth(index)[0] == forwards.truth(index)[0]).all()
        assert (fresh.truth(index)[1] == forwards.truth(index)[1]).all()


def test_a_fresh_process_draws_the_same_and_needs_no_torch():
    code = "import sys; from bench.datasets.scenes import frozen_hash; print(frozen_hash('scenes-v1', 9), 'torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert answer == [drawn.frozen_hash("scenes-v1", 9), "False"]


def test_frozen_names_have_not_changed():
    for name, literal in drawn.FROZEN.items():
        assert drawn.frozen_hash(name) == literal, f"{name} is frozen: give the change a new name"


@pytest.mark.parametrize("change", [{"noise": 9}, {"seed": 2}, {"jitter": 0.16}, {"texture": 37}, {"distractors": (0, 7)}])
def test_a_changed_parameter_changes_the_hash_and_the_digest(monkeypatch, change):
    before = drawn.frozen_hash("scenes-v1", 6), drawn.digest(SCENES["scenes-v1"])
    monkeypatch.setitem(SCENES, "scenes-v1", replace(SCENES["scenes-v1"], **change))
    assert drawn.frozen_hash("scenes-v1", 6) != before[0]
    assert drawn.digest(SCENES["scenes-v1"]) != before[1]


# --- boxes ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENES | VARIANTS)
def test_boxes_lie_inside_and_hold_every_part(name):
    scenes = (SCENES | VARIANTS)[name]
    for thing in things(name, 200):
        x0, y0, x1, y1 = thing.box
        parts = np.array([box for _, box in parts_of(thing)])
        assert (parts[:, 2:] > parts[:, :2]).all()
        assert [x0, y0, x1, y1] == [*parts[:, :2].min(axis=0), *parts[:, 2:].max(axis=0)]
        assert 0 <= x0 < x1 <= scenes.canvas
        assert 0 <= y0 < y1 <= scenes.canvas


def test_a_box_is_the_extent_of_the_pixels_that_the_object_changes():
    scenes = replace(SCENES["scenes-v1-sparse"], noise=0)
    for index in range(150):
        scene = plan(scenes, 0, index)
        full, bare = (drawn.render(one, scenes.canvas, 0) for one in (scene, replace(scene, patches=())))
        rows, columns = np.nonzero((full != bare).any(axis=0))
        assert scene.things[0].box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def covered(shape, box, side):
    """Where a shape is, by its textbook formula at the middle of each pixel: an independent drawing."""
    x0, y0, x1, y1 = box
    x = 2 * (np.arange(side) + 0.5 - x0)[None, :] / (x1 - x0) - 1
    y = 2 * (np.arange(side) + 0.5 - y0)[:, None] / (y1 - y0) - 1
    radius = np.hypot(x, y)
    inside = (
        radius <= 1,
        np.abs(x) <= (y + 1) / 2,
        np.minimum(np.abs(x), np.abs(y)) <= 1 / 3,
        (radius <= 1) & (radius >= np.sqrt(0.3)),
        np.ones((side, side), bool),
        np.abs(x) + np.abs(y) <= 1,
    )[shape]
    return inside & (np.abs(x) < 1) & (np.abs(y) < 1)


def test_without_a_plate_the_painted_parts_are_where_the_shapes_say():
    scenes = replace(SCENES["scenes-v1-sparse"], noise=0, shading=0, plate=0.0, smallest=40.0)
    for index in range(40):
        scene = plan(scenes, 0, index)
        full, bare = (drawn.render(one, scenes.canvas, 0) for one in (scene, replace(scene, patches=())))
        painted = (full != bare).any(axis=0)
        mask = np.any([covered(shape, box, scenes.canvas) for shape, box in parts_of(scene.things[0])], axis=0)
        near = np.pad(mask, 1)
        near = np.any([np.roll(near, (down, right), (0, 1)) for down in (-1, 0, 1) for right in (-1, 0, 1)], axis=0)[1:-1, 1:-1]
        assert not (painted & ~near).any()  # nothing more than a pixel, partly covered, outside the shapes
        assert (mask & ~painted).sum() <= 0.02 * mask.sum()  # a part may have its ground's colour at a few pixels


@pytest.mark.parametrize("shape", range(6))
def test_a_sprite_covers_the_area_of_its_shape(shape):
    area = (np.pi / 4, 1 / 2, 5 / 9, 0.7 * np.pi / 4, 1, 1 / 2)[shape]
    for height, width, error in ((24, 24, 0.02), (31, 30, 0.02), (3, 3, 0.1)):  # 8 samples a pixel, so 24 across the smallest
        assert sprite(shape, height, width).sum() / OPAQUE == pytest.approx(area * height * width, rel=error)
        assert sprite(shape, height, width).min() >= 0
        assert sprite(shape, height, width).max() <= OPAQUE
    assert sprite(shape, 24, 24).max() == OPAQUE


@pytest.mark.parametrize("name", ["scenes-v1", "scenes-v1-crowded"])
def test_no_object_is_hidden_beyond_recognition(name):
    scenes = (SCENES | VARIANTS)[name]
    some_hidden = 0
    for index in range(200):
        scene = plan(scenes, 0, index)
        front = np.zeros((scenes.canvas, scenes.canvas), int)  # which object, or later patch, is foremost at each pixel
        owners = {id(patch): number for number, thing in enumerate(scene.things) for patch in thing.patches}
        for patch in scene.patches:
            x0, y0, x1, y1 = patch.box
            front[y0:y1, x0:x1] = owners.get(id(patch), 99)
        for number, thing in enumerate(scene.things):
            views = [front[y0:y1, x0:x1] for x0, y0, x1, y1 in (patch.box for patch in thing.patches[1:])]
            hidden = [int((view != number).sum()) for view in views]
            assert all(some <= scenes.hidden_part * view.size for some, view in zip(hidden, views, strict=True))
            assert sum(hidden) <= scenes.hidden * sum(view.size for view in views)
            some_hidden += sum(hidden) > 0
    assert some_hidden > 50  # else the test has seen no occlusion


# --- statistics -------------------------------------------------------------------------------------------------------------------------------


def test_sizes_are_log_uniform_from_8_px_to_four_fifths_of_the_image():
    boxes = np.array([thing.box for thing in things("scenes-v1", 1000)])
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    assert sides.min() == 8
    assert sides.max() == 102  # 0.8 x 128 = 102.4
    whole = np.arange(8, 103)
    expected = np.log((whole + 0.5) / 8) / np.log(102.4 / 8)  # a size rounds to k or less up to k + 0.5
    found = (sides[:, None] <= whole).mean(axis=0)
    assert len(sides) > 2500
    assert np.abs(found - np.minimum(expected, 1)).max() < 1.95 / np.sqrt(len(sides))  # Kolmogorov's one-in-a-thousand distance


def test_scenes_hold_one_to_eight_objects_and_nearly_all_that_were_drawn():
    counts = np.array([len(plan(SCENES["scenes-v1"], 0, index).things) for index in range(1000)])
    assert counts.min() == 1
    assert counts.max() == 8
    drawn_for = 1 + sum(1 - np.sqrt(k / 8) for k in range(1, 8))  # the mean of 1 + floor(8 u^2)
    assert counts.mean() > 0.93 * drawn_for


def test_classes_part_counts_and_colours_are_drawn_apart():
    objects = things("scenes-v1", 1500)
    labels = np.array([thing.label for thing in objects])
    counts = np.array([len(thing.patches) - 1 for thing in objects])
    table = np.array([[((labels == label) & (counts == count)).sum() for count in (3, 4, 5, 6)] for label in range(10)])
    assert table.sum() == len(objects)
    expected = len(objects) / 40
    assert ((table - expected) ** 2 / expected).sum() < 73.4  # chi-squared with 39 degrees of freedom, one in a thousand
    for thing in objects[:300]:
        assert [patch.shape for patch in thing.patches[1:]] == list(range(len(thing.patches) - 1))


def test_parts_are_as_large_beside_their_object_in_every_class():
    ratios = [[] for _ in range(10)]
    for thing in things("scenes-v1", 1000):
        side = max(thing.box[2] - thing.box[0], thing.box[3] - thing.box[1])
        ratios[thing.label] += [(box[2] - box[0]) / side for _, box in parts_of(thing) if side > 20]
    means = np.array([np.mean(some) for some in ratios])
    assert np.abs(means / means.mean() - 1).max() < 0.12  # a turn widens a row and a column less than the rest


def colour_features(images):
    """Each image's histograms of red, green and blue in 12 bins, with their spread."""
    bins = np.stack([(images // 22 == level).mean(axis=(1, 2)) for level in range(12)], axis=1).reshape(len(images), -1)
    return np.concatenate([bins, np.sqrt(bins), np.ones((len(images), 1))], axis=1)


def colour_accuracy(data):
    """How often a linear classifier on colour histograms alone is right on objects it has not seen."""
    images, labels = drawn.single_objects(data, 3000, 32)
    features, goals = colour_features(images), np.eye(10)[labels]
    ridge = features[:2000].T @ features[:2000] + 0.3 * np.eye(features.shape[1])
    weights = np.linalg.solve(ridge, features[:2000].T @ goals[:2000])
    return ((features[2000:] @ weights).argmax(axis=1) == labels[2000:]).mean()


def test_colour_tells_nothing_except_in_the_control():
    assert colour_accuracy(V1) < 0.135  # chance is 0.1, its standard deviation over 1000 objects 0.0095
    assert colour_accuracy(COLOUR) > 0.4


def read_class(thing):
    """The class by ruler alone: the line from disc to cross, and how far off its middle the triangle lies."""
    disc, triangle, cross = ((box[:2] + box[2:]) / 2 for _, box in parts_of(thing)[:3])
    across = cross - disc
    off = np.linalg.norm(triangle - (disc + cross) / 2) / np.linalg.norm(across)
    turn = np.degrees(np.arctan2(across[1], across[0])) % 180  # 0 lies level, 45 falls to the right, 90 stands
    if off > 0.3:
        pattern = "corner" if 22.5 < turn < 67.5 else "vee"
    else:
        pattern = "slope" if 22.5 < turn < 67.5 else "column" if 67.5 <= turn < 112.5 else "row"
    first = across[1] > 0 if pattern == "column" else across[0] > 0
    return f"{pattern}-{'a' if first else 'b'}"


def test_the_three_key_parts_tell_the_class_by_their_arrangement_alone():
    large = [thing for thing in things("scenes-v1", 1000) if thing.box[2] - thing.box[0] > 20]
    right = np.mean([read_class(thing) == drawn.CLASSES[thing.label] for thing in large])
    assert right > 0.97
    control = [thing for thing in things("scenes-v1-uninformative", 600) if thing.box[2] - thing.box[0] > 20]
    assert np.mean([read_class(thing) == drawn.CLASSES[thing.label] for thing in control]) < 0.15


def crowding(name, count=300):
    """Of the objects of so many scenes: how many a scene, and the shares with a neighbour, of any class and of their own, at IoU 0.3 to 0.5."""
    objects = near = same = 0
    for index in range(count):
        scene = plan((SCENES | VARIANTS)[name], 0, index).things
        for i, thing in enumerate(scene):
            x0, y0, x1, y1 = thing.box
            shares = []
            for j, other in enumerate(scene):
                wide, high = min(x1, other.box[2]) - max(x0, other.box[0]), min(y1, other.box[3]) - max(y0, other.box[1])
                shared = max(0, wide) * max(0, high)
                areas = (x1 - x0) * (y1 - y0) + (other.box[2] - other.box[0]) * (other.box[3] - other.box[1])
                if i != j and 0.3 < shared / (areas - shared) < 0.5:
                    shares.append(other.label)
            objects, near, same = objects + 1, near + bool(shares), same + (thing.label in shares)
    return objects / count, near / objects, same / objects


def test_crowded_scenes_are_crowded():
    """What suppression at 0.3 takes for one object and at 0.5 does not is ten times as frequent as in scenes-v1."""
    count, near, same = crowding("scenes-v1-crowded")
    assert count > 8
    assert near > 0.15
    assert same > 0.02
    assert crowding("scenes-v1")[1] < 0.03
    assert crowding("scenes-v1")[2] < same / 8


def test_a_variant_is_opened_by_its_name():
    assert set(VARIANT_NAMES) == set(VARIANTS)
    assert {"scenes-v1", *CONTROLS} == set(SCENES)
    data = parse_data("scenes-v1-crowded")
    split = open_split(data, "val")
    assert (split.name, len(split), data.name) == ("scenes-v1-crowded/val", 500, "scenes-v1-crowded")
    assert len(split.truth(0)[0]) >= 5
    assert split.digest != drawn.open_scenes(V1, "val").digest


# --- the controls -----------------------------------------------------------------------------------------------------------------------------


def test_one_size_has_one_size():
    boxes = np.array([thing.box for thing in things("scenes-v1-onesize", 200)])
    assert set((boxes[:, 2:] - boxes[:, :2]).max(axis=1)) == {32}


def test_sparse_has_one_object_and_nothing_else():
    for index in range(200):
        scene = plan(SCENES["scenes-v1-sparse"], 0, index)
        assert len(scene.things) == 1
        assert list(scene.patches) == scene.things[0].patches


def test_scenes_v1_has_distractors_and_occluders():
    scenes = [plan(SCENES["scenes-v1"], 0, index) for index in range(100)]
    assert any(scene.patches[-1].shape == RECTANGLE and scene.patches[-1].opacity == OPAQUE for scene in scenes)
    assert sum(scene.patches[0] is not scene.things[0].patches[0] for scene in scenes) > 50  # something lies behind the first object


def test_at_full_similarity_arrangements_tell_nothing():
    one = replace(Scenes(), similarity=1.0)
    reading = [read_class(thing) for index in range(200) for thing in plan(one, 0, index).things]
    assert max(reading.count(name) for name in drawn.CLASSES) > 0.9 * len(reading)


# --- as a split, and for pretraining ----------------------------------------------------------------------------------------------------------


def test_a_split_keeps_the_shared_contract():
    import torch

    split: Split = drawn.open_scenes(V1, "val")
    assert len(split) == 500
    assert split is drawn.open_scenes(V1, "val")
    assert (split.image_id(7), split.image_name(7)) == (7, "scenes-v1/val/00007")
    image, target, truth = split.image(7), split.target(7), split.ground_truth()
    assert (image.shape, image.dtype, image.is_contiguous()) == ((3, 128, 128), torch.float32, True)
    assert 0 <= image.min() < image.max() <= 1
    assert (image.permute(1, 2, 0).numpy() == split.pixels([7])[0].astype(np.float32) / np.float32(255)).all()
    assert (target.boxes.dtype, target.labels.dtype, target.crowd.dtype) == (torch.float32, torch.int64, torch.bool)
    mine = truth.image == 7
    assert (truth.boxes[mine] == target.boxes.numpy()).all()
    assert (truth.labels[mine] == target.labels.numpy()).all()
    assert (list(truth.image_ids), set(truth.labels)) == (list(range(500)), set(range(10)))
    assert (truth.area == (truth.boxes[:, 2:] - truth.boxes[:, :2]).prod(axis=1)).all()


def test_pixels_are_a_copy():
    split = drawn.SceneSplit("scenes-v1", SCENES["scenes-v1"], "test")
    first = split.pixels([3])
    first[:] = 0
    assert split.pixels([3]).any()


def test_unknown_names_and_images_are_said():
    with pytest.raises(UserError, match=r"scenes-v9.*scenes-v1, scenes-v1-uninformative"):
        drawn.open_scenes(Data("scenes", "scenes-v9"), "train")
    with pytest.raises(IndexError, match="there are 500"):
        drawn.open_scenes(V1, "val").target(500)
    with pytest.raises(IndexError):
        drawn.open_scenes(V1, "val").image(-1)


def test_single_objects_fill_most_of_the_crop_and_cover_the_classes():
    images, labels = drawn.single_objects(V1, 400, 48)
    assert (images.shape, images.dtype, labels.dtype) == ((400, 48, 48, 3), np.uint8, np.int64)
    assert (np.bincount(labels, minlength=10) > 20).all()
    scenes = replace(SCENES["scenes-v1"], canvas=48)
    for index in range(400):
        (thing,) = single_plan(scenes, drawn.SINGLE_DOMAIN, index).things
        assert thing.label == labels[index]
        assert 0.6 * 48 - 1 <= max(thing.box[2] - thing.box[0], thing.box[3] - thing.box[1]) <= 0.95 * 48 + 1
    again, _ = drawn.single_objects(V1, 5, 48)
    assert (again == images[:5]).all()


def test_textures_and_noise_have_the_strength_that_is_said():
    assert textures().shape[1:] == (BANK, BANK)
    assert np.abs(textures()).max() == 64
    assert noise(8).std() == pytest.approx(8, rel=0.05)  # whole numbers: rounding down widens it a little
    assert noise(0).any() == False  # noqa: E712 - numpy's own bool


# --- speed ------------------------------------------------------------------------------------------------------------------------------------


def rate(work, images):
    """Images a second of this process's own time, the best of three."""
    best = 0.0
    for _ in range(3):
        start = time.process_time()
        work()
        best = max(best, images / (time.process_time() - start))
    return best


def test_drawing_is_fast():
    drawn.SceneSplit("scenes-v1", SCENES["scenes-v1"], "train").pixels(range(200))  # sprites and textures are made once
    assert rate(lambda: drawn.SceneSplit("scenes-v1", SCENES["scenes-v1"], "train").pixels(range(200)), 200) > 200  # 400 and more on a free core
    assert rate(lambda: drawn.single_objects(V1, 400, 56), 400) > 700
