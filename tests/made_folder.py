"""A made folder of small pictures, as a newcomer has one: 12 classes, 40 to 2 images each, of many sizes and modes.

``python tests/made_folder.py animals`` makes it, to walk through the documentation with it.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COUNTS = {
    "cat": 40, "dog": 34, "red fox": 28, "Käfer": 23, "кошка": 18, "медведь": 15,
    "猫": 12, "大熊猫": 9, "owl": 7, "élan": 5, "собака": 3, "lynx": 2,
}  # fmt: skip
"""Classes with names in three scripts, and how many pictures each has."""
KINDS = (("RGB", "jpg"), ("RGB", "png"), ("L", "png"), ("LA", "png"), ("P", "gif"), ("RGBA", "webp"), ("1", "bmp"))


def make_folder(root: Path, counts=COUNTS, sides=(48, 200)) -> Path:
    """Pictures in folders of classes: a shape in the colour of its class, somewhere on noise."""
    random = np.random.default_rng(0)
    for label, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            mode, ending = KINDS[number % len(KINDS)]
            picture = picture_of(label, len(counts), random, sides)
            picture.convert(mode).save(root / name / f"{number:03}.{ending}")
    return root


def picture_of(label: int, classes: int, random: np.random.Generator, sides: tuple[int, int]) -> Image.Image:
    width, height = (int(side) for side in random.integers(sides[0], sides[1] + 1, 2))
    picture = Image.fromarray(random.integers(90, 166, (height, width, 3), dtype=np.uint8))
    radius = min(width, height) // 3
    x, y = (int(random.integers(radius, side - radius + 1)) for side in (width, height))
    hue = Image.new("HSV", (1, 1), (255 * label // classes, 220, 120 + 100 * (label % 2))).convert("RGB")
    draw, box = ImageDraw.Draw(picture), (x - radius, y - radius, x + radius, y + radius)
    if label % 3 == 0:
        draw.ellipse(box, fill=hue.getpixel((0, 0)))
    elif label % 3 == 1:
        draw.rectangle(box, fill=hue.getpixel((0, 0)))
    else:
        draw.regular_polygon((x, y, radius), 3, fill=hue.getpixel((0, 0)))
    return picture


if __name__ == "__main__":
    make_folder(Path(sys.argv[1]))
