"""A large long-tailed image folder, drawn from the fonts of this machine: characters are the classes.

    python benchmarks/glyphs.py OUT [--classes 1000] [--images 115846] [--size 64] [--test 5] [--seed 0] [--jobs N]
                                    [--fonts DIR] [--format jpeg|png]

OUT/train is long-tailed and OUT/test balanced, a folder for each class.  Every image has its own font, rotation, scale,
shear, place, colours and background.  The same seed and fonts give the same files, whatever the number of jobs.

The counts are those of ImageNet-LT: a Pareto distribution of the second kind (Lomax) with shape 6, from the largest
class down to 5 images (Liu et al., Large-scale long-tailed recognition in an open world, CVPR 2019, section 5.1).
Class i of C, from 0, has ``5 + s * (u_i ** (-1 / 6) - u_last ** (-1 / 6))`` images with
``u_i = (i + 0.7925) / (C + 0.585)``, and s such that the total is the one that was asked for; images that rounding
leaves over go to the largest remainders.  1,000 classes and 115,846 images so have 1,280 to 5 images, as ImageNet-LT.
"""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fontTools.ttLib import TTCollection, TTFont
from PIL import Image, ImageDraw, ImageFont

SHAPE, FEWEST = 6, 5
"""Of the Pareto distribution; and the images of the smallest class."""
FACES = 2
"""A character needs as many fonts, or a class would be one outline."""
BATCH = 100
"""Images of a class that a process draws at a time."""
LETTERS = {"Lu", "Ll", "Lo", "Nd"}  # no marks, no signs, nothing that is drawn together with a neighbour
SUFFIXES = {".ttf", ".otf", ".ttc", ".otc"}


class Face(NamedTuple):
    """A font: its file, and its number in a file of several."""

    path: str
    number: int


class Job(NamedTuple):
    """Images of one class that are drawn together."""

    folder: Path
    character: str
    faces: tuple[Face, ...]
    first: int
    images: int
    seed: tuple[int, ...]


def counts_of(classes: int, images: int) -> list[int]:
    """The images of each class, from head to tail; see the text above.

    Args:
        classes: at least 1.
        images: of all classes together, at least ``FEWEST`` a class.
    """
    places = (np.arange(classes) + 0.7925) / (classes + 0.585)
    shape = places ** (-1 / SHAPE) - places[-1] ** (-1 / SHAPE) + 1e-12  # of one class it is 0
    exact = FEWEST + (images - FEWEST * classes) * shape / shape.sum()
    counts = np.floor(exact).astype(int)
    left = images - counts.sum()
    counts[np.argsort(counts - exact, kind="stable")[:left]] += 1
    return sorted(counts.tolist(), reverse=True)


def font_files(folder: Path | None) -> list[Path]:
    """The font files of a folder, or of the machine."""
    if folder is not None:
        return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    command = ["fc-list", "--format", "%{file}\n"]
    try:
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        sys.exit("fc-list does not work here: install fontconfig, or name a folder of fonts with --fonts.")
    return sorted({Path(line) for line in listed.splitlines() if Path(line).suffix.lower() in SUFFIXES})


def faces_of(files: Sequence[Path]) -> dict[str, tuple[Face, ...]]:
    """The faces that have each letter or digit, at most one a file: those of one file differ little."""
    found: dict[str, list[Face]] = {}
    for path in files:
        here: dict[str, Face] = {}
        with TTCollection(path) if path.suffix.lower() in {".ttc", ".otc"} else TTFont(path, lazy=True) as opened:
            for number, font in enumerate(opened.fonts if isinstance(opened, TTCollection) else [opened]):
                for code in font.getBestCmap() or ():
                    here.setdefault(chr(code), Face(str(path), number))
        for character, face in here.items():
            if unicodedata.category(character) in LETTERS:
                found.setdefault(character, []).append(face)
    return {character: tuple(found[character]) for character in sorted(found)}


def chosen(faces: Mapping[str, tuple[Face, ...]], classes: int, seed: int) -> list[str]:
    """The characters of the classes, in an order of the seed: the head of one seed is in the tail of another.

    Exits with one line where the fonts have too few.
    """
    usable = [character for character, own in faces.items() if len(own) >= FACES]
    if len(usable) < classes:
        sys.exit(
            f"the fonts here have {len(usable)} letters that {FACES} fonts or more have, and {classes} classes need as "
            "many: apt-get install fonts-noto-cjk brings 40,000, or name a folder of fonts with --fonts."
        )
    order = np.random.default_rng([seed, 0]).permutation(len(usable))
    return [usable[place] for place in order[:classes]]


def jobs_of(out: Path, characters: Sequence[str], faces: Mapping[str, tuple[Face, ...]], counts: Sequence[int],
            test: int, seed: int) -> Iterator[Job]:  # fmt: skip
    """What is to be drawn, in pieces."""
    for part, (split, numbers) in enumerate({"train": counts, "test": [test] * len(counts)}.items(), 1):
        for label, (character, count) in enumerate(zip(characters, numbers, strict=True)):
            folder = out / split / f"U+{ord(character):04X} {character}"
            for first in range(0, count, BATCH):
                yield Job(folder, character, faces[character], first, min(BATCH, count - first), (seed, part, label))


def drawn(job: Job, size: int, suffix: str) -> int:
    """Draw the images of a job; returns their number."""
    job.folder.mkdir(parents=True, exist_ok=True)
    for number in range(job.first, job.first + job.images):
        draws = np.random.default_rng([*job.seed, number])
        picture = glyph(job.character, job.faces[draws.integers(len(job.faces))], size, draws)
        picture.save(job.folder / f"{number:05d}.{suffix}", quality=90)
    return job.images


def glyph(character: str, face: Face, size: int, draws: np.random.Generator) -> Image.Image:
    """A picture of a character: ``size`` x ``size`` pixels, RGB."""
    mask = Image.new("L", (size, size))
    middle = (size / 2, size / 2)
    ImageDraw.Draw(mask).text(middle, character, fill=255, font=_font(face, round(0.7 * size)), anchor="mm")
    mask = mask.transform(mask.size, Image.Transform.AFFINE, _affine(size, draws), Image.Resampling.BILINEAR)
    ink, paper = draws.integers(0, 256, (2, 3))
    while abs(int(ink.sum()) - int(paper.sum())) < 180:  # of 765: so that the character can be seen
        ink, paper = draws.integers(0, 256, (2, 3))
    noise = draws.normal(0, 18, (5, 5, 3))
    coarse = Image.fromarray(np.clip(paper + noise, 0, 255).astype(np.uint8))
    background = coarse.resize((size, size), Image.Resampling.BICUBIC)
    background.paste(tuple(ink.tolist()), mask=mask)
    return background


def _affine(size: int, draws: np.random.Generator) -> tuple[float, ...]:
    """From a pixel of the result to one of the drawing: turned up to 20 degrees, sheared, scaled and moved."""
    turn = np.deg2rad(draws.uniform(-20, 20))
    cosine, sine = np.cos(turn), np.sin(turn)
    sheared = np.array([[1, draws.uniform(-0.2, 0.2)], [0, 1]])
    matrix = np.array([[cosine, -sine], [sine, cosine]]) @ sheared @ np.diag(1 / draws.uniform(0.75, 1.2, 2))
    middle = np.full(2, (size - 1) / 2)
    offset = middle - matrix @ (middle + draws.uniform(-0.08, 0.08, 2) * size)
    return (*matrix[0], offset[0], *matrix[1], offset[1])


@functools.lru_cache(maxsize=64)
def _font(face: Face, pixels: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(face.path, pixels, index=face.number, layout_engine=ImageFont.Layout.BASIC)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw a large long-tailed image folder from installed fonts.")
    parser.add_argument("out", type=Path, help="the folder, new or empty")
    parser.add_argument("--classes", type=int, default=1000, help="characters (default 1000)")
    parser.add_argument("--images", type=int, default=115_846, help="training images in all (default 115846)")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side (default 64)")
    parser.add_argument("--test", type=int, default=5, help="test images of each class (default 5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a processor)")
    parser.add_argument("--fonts", type=Path, help="folder of fonts (default: those that fc-list names)")
    parser.add_argument("--format", choices=["jpeg", "png"], default="jpeg")
    options = parser.parse_args(arguments)
    if options.classes < 2 or options.images < FEWEST * options.classes:
        parser.error(f"--classes is at least 2, and --images at least {FEWEST} a class")
    if min(options.size, options.jobs) < 1 or min(options.test, options.seed) < 0:
        parser.error("--size and --jobs are at least 1, --test and --seed at least 0")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        parser.error(f"{options.out} is not an empty folder")

    began = time.perf_counter()
    faces = faces_of(font_files(options.fonts))
    characters = chosen(faces, options.classes, options.seed)
    counts = counts_of(options.classes, options.images)
    jobs = list(jobs_of(options.out, characters, faces, counts, options.test, options.seed))
    draw = functools.partial(drawn, size=options.size, suffix={"jpeg": "jpg", "png": "png"}[options.format])
    if options.jobs == 1:
        images = sum(map(draw, jobs))
    else:
        with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as processes:
            images = sum(processes.map(draw, jobs, chunksize=8))
    took = time.perf_counter() - began
    print(
        f"{options.out}: {images:,} images of {options.size} x {options.size} pixels in {options.classes:,} classes, "
        f"{counts[0]:,} to {counts[-1]:,} for training and {options.test} for testing, "
        f"in {took:.0f} s ({images / took:,.0f} a second)"
    )


if __name__ == "__main__":
    main()
