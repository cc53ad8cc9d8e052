"""The four tiers: what each multiplies. A tier changes sizes and lengths, never which parts a model has."""

from __future__ import annotations

from bench.spec import Backbone, Scale, Schedule, Tier, Xception

# Bottleneck nets with the paper's own order of depths: R101 differs from R50 in its third stage alone, as in ResNet itself. X145 is the small net
# of Light-Head R-CNN, Table 7: half of its blocks and a quarter of its channels, in eights. R50-POD and R101-POD have a first and a last block in
# each of conv3, conv4 and conv5, of which POD's Table 3 is; at the paper's scale they are R50 and R101.
_PROXY_BACKBONES: dict[str, Backbone | Xception] = {
    "R50": Backbone((1, 2, 2, 1), 16),
    "R101": Backbone((1, 2, 4, 1), 16),
    "X145": Xception((8, 40, 72, 144), (2, 4, 2)),
    "R50-POD": Backbone((1, 2, 2, 2), 16),
    "R101-POD": Backbone((1, 2, 4, 2), 16),
}
_PAPER_BACKBONES: dict[str, Backbone | Xception] = {
    "R50": Backbone((3, 4, 6, 3), 64),
    "R101": Backbone((3, 4, 23, 3), 64),
    "X145": Xception(),
    "R50-POD": Backbone((3, 4, 6, 3), 64),
    "R101-POD": Backbone((3, 4, 23, 3), 64),
}

SCALES: dict[Tier, Scale] = {
    "smoke": Scale(
        tier="smoke",
        width=0.25,
        size=0.107,  # 600 px become 64
        backbones={
            "R50": Backbone((1, 1, 1, 1), 8),
            "R101": Backbone((1, 1, 2, 1), 8),
            "X145": Xception((8, 16, 32, 64), (1, 2, 1)),
            "R50-POD": Backbone((1, 2, 2, 2), 8),
            "R101-POD": Backbone((1, 2, 3, 2), 8),
        },
        schedule=Schedule(images=64, decay_images=32, epoch_images=32, warmup_images=16, batch=8, rate=1e-3),
        rois=16,
        proposals=(32, 16),
        seeds=2,
        anchors=2.4,
        single_map=2.0,
    ),
    "proxy": Scale(
        tier="proxy",
        width=0.25,  # stem 64 -> 16, fc 1024 -> 256; FPN 256 -> 128, the least that condensed heads take
        size=160 / 600,  # 600 px become 160, 800 px become 213
        backbones=_PROXY_BACKBONES,
        schedule=Schedule(images=6000, decay_images=2000, epoch_images=2000, warmup_images=400, batch=8, rate=1e-3),
        rois=64,
        proposals=(128, 100),
        single_map=1.8,
    ),
    "real": Scale(
        tier="real",
        width=0.25,
        size=0.4,  # 600 px become 240
        backbones=_PROXY_BACKBONES,
        schedule=Schedule(images=1600, decay_images=600, epoch_images=200, warmup_images=200, batch=4, rate=7e-4),
        rois=64,
        proposals=(256, 128),
        seeds=1,
    ),
    "paper": Scale(
        tier="paper",
        width=1.0,
        size=1.0,
        backbones=_PAPER_BACKBONES,
        # Appendix A: 12 epochs of about 16,551 images (VOC 07+12 trainval), batch 8, rate 0.01, x0.1 at epoch 10.
        schedule=Schedule(
            images=165_504,
            decay_images=33_104,
            epoch_images=16_552,
            warmup_images=4_000,
            batch=8,
            rate=0.01,
            optimizer="sgd",
            weight_decay=1e-4,
            decay="steps",
            drops=(10 / 12,),
            clip_norm=35.0,
        ),
        rois=512,
        proposals=(2000, 1000),
        threads=2,
    ),
}

# Single objects of the embedded dataset: what ImageNet is to the papers.
PRETRAIN = Schedule(images=24_000, decay_images=8_000, epoch_images=8_000, warmup_images=2_000, batch=32, rate=2e-3)
