"""The page docs/gallery.md: what a handful of commands print and draw, and how long they take.

    python benchmarks/gallery.py [--cifar10 DIR] [--docs DIR]

DIR of ``--cifar10`` holds CIFAR-10; without it the page has the handwritten digits alone.  The commands run one after
the other in an empty folder, as somebody would type them.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

DOCS = Path(__file__).parent.parent / "docs"
WIDE, COLOURS = 480, 64
"""The most pixels of a picture from left to right, and its colours: it is to be small, and nobody measures it."""
AFTER_THE_TABLE = ("class ", "The configurations differ")
ROOM = 500_000
"""Bytes of all pictures together."""

SHORT = """\
ipc: 5
iterations: 100
training:
  original: {epochs: 300}
  distilled: {epochs: 100}
"""


class Shot(NamedTuple):
    """One command of the page.

    Attributes:
        title: the heading.
        says: what the command is for.
        command: as it is typed.
        picture: the file that it draws, or None.
        bars: whether what follows the table is shown, too: the accuracy of every class.
    """

    title: str
    says: str
    command: str
    picture: str | None = None
    bars: bool = False


DIGITS = [
    Shot(
        "The data",
        "The long-tailed set: how many images each class has, and what they look like.",
        "ltdd data show --picture data.png",
        "data.png",
        bars=True,
    ),
    Shot(
        "Without distilling",
        "Three ways to train a classifier on all 342 images. The first one is a plain classifier.",
        "ltdd train --config short.yaml --head linear --head balanced-softmax --head crt --store networks "
        "--out trained",
    ),
    Shot(
        "Chosen images",
        "A coreset is made of real images. *Herding* takes those whose mean is nearest to the mean of the class. A "
        "class with fewer than five images gives all of them.",
        "ltdd distill --config short.yaml --method coreset --sampler herding --store networks --out herding",
        "herding/distilled.png",
    ),
    Shot(
        "Distribution matching",
        "`dm` changes the images until their mean features in random networks are those of the real images.",
        "ltdd distill --config short.yaml --method dm --store networks --out dm",
        "dm/distilled.png",
    ),
    Shot(
        "Trajectory matching",
        "`mtt` changes the images until a network that learns them goes where networks of the original images went. A "
        "step of it takes long, so there are ten.",
        "ltdd distill --config short.yaml --method mtt --iterations 10 --set experts.count=2 --set experts.epochs=20 "
        "--set matcher.syn_steps=10 --set matcher.lr_lr=0 --store networks --out mtt",
        "mtt/distilled.png",
    ),
    Shot(
        "Soft labels",
        "A teacher that has learnt the original images says how much each distilled image looks like each class. The "
        "images stay as they are. The teacher is the balanced softmax from above. On the digits it is so sure of every "
        "image that its labels hardly differ from the classes. [Other labellers](soft-labels.md) are there.",
        "ltdd relabel dm --labeller teacher --store networks --out dm-soft",
    ),
    Shot(
        "Two stages",
        "One classifier learns from the original images, and one from the distilled images. Both answer together. The "
        "bars show every class, from the most frequent one to the rarest.",
        "ltdd distill --config short.yaml --method dm --plugin twostage --store networks --out two-stage",
        bars=True,
    ),
    Shot(
        "Which is better?",
        "The classifiers of all runs in one table. A star marks those that the test images cannot tell from the best.",
        "ltdd compare herding dm mtt dm-soft two-stage",
    ),
]
CIFAR10 = [
    Shot(
        "Photographs",
        "The same with CIFAR-10, cut to 1,000 images of the largest class and 10 of the smallest. Twenty steps and ten "
        "epochs are far too few for good numbers. They show what a command costs on photographs.",
        "ltdd distill --config short.yaml --data cifar10-lt-1k --root cifar10 --method dm --iterations 20 "
        "--set training.original.epochs=10 --store networks --out cifar10-dm",
        "cifar10-dm/distilled.png",
    ),
]


class Result(NamedTuple):
    """What a command printed, and its seconds."""

    shot: Shot
    printed: str
    seconds: float


def run(shot: Shot, folder: Path) -> Result:
    """Run one command in a folder; its progress goes to the terminal.

    Raises:
        CalledProcessError: it fails.
    """
    words = shot.command.split()
    program = [str(Path(sys.executable).with_name(words[0])), *words[1:]]
    began = time.perf_counter()
    done = subprocess.run(
        program, cwd=folder, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "COLUMNS": "110"}
    )
    return Result(shot, done.stdout, time.perf_counter() - began)


def shown(result: Result) -> str:
    """What is shown of the output, without empty lines, and without what follows the table unless it is wanted."""
    lines = [line.rstrip() for line in result.printed.splitlines() if line.strip()]
    if not result.shot.bars:
        ends = (place for place, line in enumerate(lines) if line.startswith(AFTER_THE_TABLE))
        lines = lines[: next(ends, None)]
    return "\n".join(lines)


def picture_name(shot: Shot) -> str:
    """The file of a picture in the documentation."""
    return f"{shot.title.lower().replace(' ', '-')}.png"


def save_small(source: Path, target: Path) -> None:
    """A picture, smaller and with fewer colours."""
    with Image.open(source) as picture:
        picture = picture.convert("RGB")
        picture.thumbnail((WIDE, 10 * WIDE), Image.Resampling.LANCZOS)
        picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(target, optimize=True)


def page(results: Sequence[Result], about: str) -> str:
    """The page.

    Args:
        results: of the commands, in the order of the page.
        about: the machine, the versions and the date.
    """
    parts = [
        "# Gallery",
        wrapped(
            "What some commands print and draw, and how long they take. `make gallery` runs them all and writes this "
            "page."
        ),
        wrapped(about),
        wrapped(
            "All runs are **short**, so that the whole page takes minutes: 5 images per class and 100 steps, from this "
            "`short.yaml`. Numbers are of one seed. Numbers of longer runs are on the pages of "
            "[results](results/two-stage.md)."
        ),
        f"```yml\n{SHORT}```",
        wrapped(
            "`--store networks` keeps all trained networks in one folder. A command that needs a network which an "
            "earlier one trained takes it from there, so the order of the commands decides a part of their times."
        ),
    ]
    for result in results:
        parts += [f"## {result.shot.title}", wrapped(result.shot.says), f"```sh\n{result.shot.command}\n```"]
        parts += [f"It took {result.seconds:.0f} seconds.", f"```text\n{shown(result)}\n```"]
        if result.shot.picture:
            parts.append(f"![{result.shot.title}](images/gallery/{picture_name(result.shot)})")
    return "\n\n".join(parts) + "\n"


def wrapped(text: str) -> str:
    """A paragraph in lines of the documentation's width."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def about_this_machine() -> str:
    """Processor, cores and how busy they are, versions and date."""
    named = [line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")]
    processor = named[0] if named else platform.processor() or platform.machine()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("ltdd", "torch", "torchvision"))
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    today = datetime.datetime.now(datetime.UTC).date()
    return (
        f"{processor} with {os.cpu_count()} cores, threads: {threads}; {versions}, Python {platform.python_version()}; "
        f"{today.day} {today:%B %Y}. The load of the machine was about {os.getloadavg()[0]:.0f} when they began."
    )


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, help="folder of CIFAR-10")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of gallery.md")
    given = parser.parse_args(arguments)
    pictures, about = given.docs / "images" / "gallery", about_this_machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "short.yaml").write_text(SHORT, encoding="utf-8")
        if given.cifar10:
            (folder / "cifar10").symlink_to(given.cifar10.resolve(strict=True))
        results = [run(shot, folder) for shot in (*DIGITS, *(CIFAR10 if given.cifar10 else ()))]
        pictures.mkdir(parents=True, exist_ok=True)
        for old in pictures.glob("*.png"):
            old.unlink()
        for shot in (result.shot for result in results if result.shot.picture):
            save_small(folder / shot.picture, pictures / picture_name(shot))
    size = sum(path.stat().st_size for path in pictures.glob("*.png"))
    if size > ROOM:
        sys.exit(f"the pictures have {size} bytes, which is more than {ROOM}")
    (given.docs / "gallery.md").write_text(page(results, about), encoding="utf-8")
    print(f"{given.docs / 'gallery.md'}: {sum(result.seconds for result in results):.0f} s, {size} bytes of pictures")


if __name__ == "__main__":
    main()
