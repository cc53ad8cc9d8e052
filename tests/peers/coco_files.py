"""Small COCO files with their images."""

import json
from pathlib import Path

from PIL import Image

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


def write(folder: Path, stem: str, ids: list[int], boxes: list[tuple[int, int]], categories: list[dict] = CATEGORIES) -> Path:
    """A COCO file with those images of 40 x 30 px and a box for each (image id, category id)."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in ids:
        Image.new("RGB", (40, 30), (image % 256, 100, 255)).save(folder / f"{image}.png")
    images = [{"id": image, "file_name": f"{image}.png", "width": 40, "height": 30} for image in ids]
    entries = [{"id": at, "image_id": image, "category_id": label, "bbox": [at % 30, 2, 5, 6]} for at, (image, label) in enumerate(boxes)]
    path = folder / f"{stem}.json"
    path.write_text(json.dumps({"images": images, "annotations": entries, "categories": categories}))
    return path
