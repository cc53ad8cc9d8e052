"""Detectors of transformers, small ones from a folder: the contract, weights that come back, its own losses and answers; nothing is fetched."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from bench.adapters import Wanted, build_adapted
from bench.contract import examine
from bench.types import Target, UserError, detect

CLASSES = 3


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def states(findings):
    return {each.rule: each.state for each in findings}


SMALL = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 20}
SMALL |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic"}
RT = {"encoder_hidden_dim": 32, "encoder_in_channels": [16, 24, 32], "decoder_in_channels": [32, 32, 32], "d_model": 32, "num_queries": 20}
RT |= {
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_denoising": 8,
}
KINDS = {
    "detr": SMALL | {"backbone_config": RESNET | {"out_features": ["stage4"]}},
    "conditional_detr": SMALL | {"backbone_config": RESNET | {"out_features": ["stage4"]}},
    "deformable_detr": SMALL | {"backbone_config": RESNET | {"out_features": ["stage2", "stage3", "stage4"]}, "num_feature_levels": 3},
    "rt_detr": RT | {"backbone_config": RESNET | {"model_type": "rt_detr_resnet", "out_features": ["stage2", "stage3", "stage4"]}},
}
quietly = pytest.mark.filterwarnings("ignore")  # of somebody else's package


@pytest.fixture
def folder(tmp_path):
    pytest.importorskip("transformers", reason="needs the group `transformers`")
    pytest.importorskip("timm", reason="as above")
    pytest.importorskip("scipy", reason="as above")

    def make(kind, **more):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, **KINDS.get(kind, {}), **more}))
        return f"transformers:{tmp_path}"

    return make


@quietly
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_detectors_keep_it(kind, folder):
    detector = build_adapted(folder(kind), classes=CLASSES, size=(96, 128))
    found = examine(detector, CLASSES, (96, 128))
    assert "broken" not in states(found).values(), [each for each in found if each.state == "broken"]
    assert states(found)["losses reach every trainable parameter"] == states(found)["labels 0..C-1"] == "ok"
    assert detector.framework_params() == sum(p.numel() for p in detector.parameters())


@quietly
def test_a_saved_model_comes_back_and_boxes_are_those_of_its_own_post_processing(folder, tmp_path):
    name = folder("detr", num_labels=CLASSES)
    first = build_adapted(name)
    assert first.weights_from == "random"
    with torch.no_grad():
        first.model.class_labels_classifier.weight.normal_(0, 1)
    first.model.save_pretrained(tmp_path)
    again = build_adapted(name, size=(96, 128))
    assert again.weights_from.endswith("model.safetensors")
    image = torch.rand(3, 90, 120)
    with torch.inference_mode():
        batch = again.prepare([image])
        (found,) = detect(again, [image])
        said = first.eval().model(pixel_values=batch.pixels, pixel_mask=torch.ones(1, *batch.pixels.shape[-2:], dtype=torch.long))
    best, label = said.logits.softmax(-1)[0, :, :-1].max(-1)
    order = best.argsort(descending=True)
    x, y, w, h = said.pred_boxes[0][order].unbind(-1)
    wanted = torch.stack(((x - w / 2) * 120, (y - h / 2) * 90, (x + w / 2) * 120, (y + h / 2) * 90), 1)
    torch.testing.assert_close(found.scores, best[order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.boxes, wanted.clamp(min=0).minimum(torch.tensor([120.0, 90, 120, 90])), atol=1e-3, rtol=1e-4)
    assert found.labels.tolist() == label[order].tolist()


@quietly
def test_the_loss_is_that_of_the_models_own_annotations(folder):
    """The same objects through the library's own COCO annotations."""
    detector = build_adapted(folder("detr"), classes=CLASSES, size=(96, 128)).eval()
    image, none = torch.rand(3, 90, 120), torch.zeros(2, dtype=torch.bool)
    target = Target(torch.tensor([[10.0, 20, 50, 60], [0, 0, 120, 90]]), torch.tensor([2, 0]), none, none)
    coco = [
        {"bbox": [10, 20, 40, 40], "category_id": 2, "area": 1600, "iscrowd": 0, "id": 1, "image_id": 1},
        {"bbox": [0, 0, 120, 90], "category_id": 0, "area": 10800, "iscrowd": 0, "id": 2, "image_id": 1},
    ]
    given = detector.processor(
        [image], annotations=[{"image_id": 1, "annotations": coco}], do_rescale=False, size=detector.told.size, return_tensors="pt"
    )
    with torch.no_grad():
        wanted = detector.model(given["pixel_values"], pixel_mask=given["pixel_mask"], labels=given["labels"]).loss
        found = detector([image], [target])["loss"]
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)


@quietly
def test_what_it_shares_is_kept_and_comes_back(folder, tmp_path):
    """Deformable DETR shares its heads between decoder layers, which safetensors refuses to keep as one tensor of two names."""
    name = folder("deformable_detr")
    detector = build_adapted(name, classes=CLASSES, size=(96, 128))
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.normal_(0, 0.1)
    save_file(detector.state_dict(), tmp_path / "weights.safetensors")
    again = build_adapted(name, classes=CLASSES, size=(96, 128), weights=tmp_path / "weights.safetensors")
    assert len(list(again.parameters())) == len(list(detector.parameters())) < len(detector.state_dict())
    for (key, one), other in zip(detector.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), key


@quietly
def test_gaps_in_the_numbering_are_left_out(folder):
    names = {"0": "N/A", "1": "cat", "2": "dog", "3": "N/A", "4": "cow"}
    named = partial(folder, "detr", id2label=names, label2id={"cat": 1, "dog": 2, "cow": 4})
    import transformers

    from implementations.adapters.transformers import _config, _label_map

    path = named().removeprefix("transformers:")
    config, _ = _config(Wanted(path), transformers)
    assert _label_map(config, Wanted(path, classes=3)) == (-1, 0, 1, -1, 2)
    assert _label_map(config, Wanted(path)) == (0, 1, 2, 3, 4)
    with pytest.raises(UserError, match="has 3 classes and the data 7"):
        _label_map(config, Wanted(path, classes=7))


@quietly
def test_an_input_that_is_too_small_for_its_queries(folder):
    with pytest.raises(UserError, match=r"an input of 64x64 has 84 places and rt_detr chooses 300 queries") as error:
        build_adapted(folder("rt_detr", num_queries=300), size=(64, 64))
    assert "\n" not in str(error.value)


@quietly
def test_nothing_is_downloaded(folder, tmp_path):
    folder("detr")
    with pytest.raises(UserError, match=r"leandet downloads nothing; did you mean rt_detr") as error:
        build_adapted("transformers:rt_dert")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"no such folder with a config\.json here, and leandet downloads nothing"):
        build_adapted("transformers:facebook/detr-resnet-50")
    hub = {"backbone_config": None, "use_timm_backbone": False, "backbone": "microsoft/resnet-50"}
    for config, said in (({"model_type": "bert"}, "'bert'; allowed"), ({"model_type": "rt_detr", **hub}, "would need a download")):
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=said) as error:
            build_adapted(f"transformers:{tmp_path}")
        assert "\n" not in str(error.value)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not a configuration"):
        build_adapted(f"transformers:{tmp_path}")
