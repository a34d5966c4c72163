"""What a cut to the long tail leaves out, as the test part of an image folder: what a training can be chosen by.

    python benchmarks/left_out.py OUT [--root DIR] [--data cifar10-lt-1k] [--n-max N] [--images 1000]

OUT/train becomes the long-tailed set, a folder a class, and OUT/test up to ``--images`` of the images of each class
that the cut leaves out. No test image is read. Trainings, labellers and methods can be compared there, such as

    ltdd train --data folder --root OUT --validation 0 --head balanced-softmax
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torchvision.transforms.functional import to_pil_image

from ltdd_core import configure
from ltdd_core.data.longtail import cut
from ltdd_core.data.source import DataSource, ImageTable
from ltdd_core.seeding import generator


def kept_and_left_out(source: DataSource, most: int) -> tuple[ImageTable, tuple[str, ...], torch.Tensor, torch.Tensor]:
    """All training images, the names of their classes, which the cut keeps, and up to ``most`` others of each class."""
    options, images = source.options, source.load(generator(source.options.seed, "hold out"))
    labels, names = images.train.labels, images.class_names
    kept = cut(labels, names, imbalance=options.imbalance, n_max=options.n_max, order=options.order,
               profile=options.profile, subset=options.subset,
               generator=generator(options.seed, "long tail"))  # fmt: skip
    left = torch.ones(len(labels), dtype=torch.bool)
    left[kept] = False
    chosen = []
    for label in range(len(names)):
        own = torch.nonzero(left & (labels == label)).flatten()
        chosen.append(own[torch.randperm(len(own), generator=torch.Generator().manual_seed(7))[:most]])
    return images.train, tuple(names), kept, torch.cat(chosen).sort().values


def write(folder: Path, table: ImageTable, names: tuple[str, ...], indices: torch.Tensor) -> None:
    """A PNG of each image in the folder of its class."""
    for name in names:
        (folder / name).mkdir(parents=True)
    for index in indices.tolist():
        image = to_pil_image(table.read(torch.tensor([index]))[0])
        image.save(folder / names[int(table.labels[index])] / f"{index:06d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="a folder that is not there yet")
    parser.add_argument("--data", default="cifar10-lt-1k", help="a data source that cuts a larger training set")
    parser.add_argument("--root", help="where its files are; digits-lt has none")
    parser.add_argument("--n-max", type=int, help="images of the largest class; else as the data source has it")
    parser.add_argument("--images", type=int, default=1000, help="left-out images of a class, at most")
    given = parser.parse_args()

    if given.out.exists():
        parser.error(f"{given.out} is there already: name a new folder")
    said = {"name": given.data, "root": given.root, "n_max": given.n_max}
    data = {name: value for name, value in said.items() if value is not None}
    table, names, kept, left = kept_and_left_out(configure(method="coreset", data=data).data.make(), given.images)
    for part, indices in (("train", kept), ("test", left)):
        write(given.out / part, table, names, indices)
        counts = torch.bincount(table.labels[indices], minlength=len(names))
        print(f"{given.out / part}: {len(indices)} images, {int(counts.max())} to {int(counts.min())} a class")


if __name__ == "__main__":
    main()
