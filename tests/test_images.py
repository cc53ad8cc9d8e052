"""Image files to tensors: every mode, EXIF, broken files."""

import numpy as np
import pytest
from PIL import Image

from bench.datasets.images import read_image
from bench.types import UserError


def message(call, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 1000
    return text


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 51, (0.2, 0.2, 0.2)),
        ("1", 1, (1.0, 1.0, 1.0)),
        ("RGBA", (51, 102, 255, 0), (0.2, 0.4, 1.0)),  # alpha dropped
        ("LA", (51, 9), (0.2, 0.2, 0.2)),
        ("I;16", 51 * 256, (0.2, 0.2, 0.2)),
        ("P", 3, (3 / 255, 3 / 255, 3 / 255)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, value, expected):
    image = Image.new(mode, (5, 4), value)
    if mode == "P":
        image.putpalette([level for level in range(256) for _ in range(3)])
    image.save(tmp_path / "x.png", **({"transparency": bytes([9, 8, 7, 6])} if mode == "P" else {}))
    read = read_image(tmp_path / "x.png", width=5, height=4)
    assert tuple(read.shape) == (3, 4, 5)
    assert read[:, 2, 3].tolist() == pytest.approx(expected, abs=1e-6)


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=95)
    assert read_image(tmp_path / "x.jpg", width=16, height=16)[:, 8, 8].tolist() == pytest.approx([1, 0, 0], abs=0.03)


def test_exif_is_not_applied_and_named_where_it_may_be_the_cause(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (20, 10), (255, 0, 0)).save(tmp_path / "x.jpg", exif=exif)
    assert read_image(tmp_path / "x.jpg", width=20, height=10).shape == (3, 10, 20)
    assert "EXIF" in message(lambda: read_image(tmp_path / "x.jpg", width=10, height=20))


def test_unreadable_images_are_named(tmp_path):
    path = tmp_path / "x.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()

    def read():
        return read_image(path, width=64, height=64)

    assert read().shape == (3, 64, 64)
    path.write_bytes(whole[: len(whole) // 2])
    assert f"{path}: not a readable image (" in message(read)
    path.write_bytes(b"no image")
    assert f"{path}: not a readable image (" in message(read)
    path.write_bytes(b"")
    assert f"{path}: not a readable image (" in message(read)
    path.unlink()
    assert f"{path}: the image is gone" in message(read)
    Image.new("RGB", (63, 64)).save(path)
    assert "63x64, the annotations say 64x64" in message(read)
