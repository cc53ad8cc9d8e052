"""Later kinds of scenes, drawn by the same generator. They stand apart from SCENES, so that what rests on its first four keeps its digest."""

from __future__ import annotations

from bench.datasets.scene_plans import Scenes

VARIANTS: dict[str, Scenes] = {
    # Tuned on boxes alone, before any detector saw it: one object in five has a neighbour at IoU 0.3 to 0.5 (in scenes-v1 one in 45), one in 40 a
    # neighbour of its own class there, which suppression at 0.3 takes for the same object and at 0.5 does not.
    "scenes-v1-crowded": Scenes(objects=(8, 14), smallest=28.0, largest=0.5, hidden=0.6, hidden_part=0.9),
}
