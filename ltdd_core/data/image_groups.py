"""Images that belong together, such as those of one patient or one camera: none of them tests what others train."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ltdd_core.data.imagefile import ImageFile
from ltdd_core.errors import InputError, how_to_set

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ALONE, BY_FOLDER = "none", "folder"


Groups = str | Mapping[ImageFile, str]
"""How images are grouped, as the option ``data.group`` says, or the name of the group of each file."""


def group_names(how: Groups, root: Path, files: Sequence[ImageFile], homes: Sequence[Path]) -> list[str]:
    """What the group of each image is called.

    Args:
        how: the names themselves; or ``none``: each image is a group; ``folder``: the folder in that of the class, and
            an image that is in none is a group; else a regular expression over the path below ``root``, whose first
            part in brackets, or else whose match, is the name.
        root: the folder of all images.
        files: the images; those that are in no files of their own are in no groups.
        homes: the folder of the class of each.

    Raises:
        InputError: this is no regular expression, or some path does not match.
    """
    if not isinstance(how, str):
        return [how[file] for file in files]
    if how == ALONE:
        return [str(file) for file in files]
    paths = [file for file in files if isinstance(file, Path)]
    if how == BY_FOLDER:
        inside = [path.relative_to(home) for path, home in zip(paths, homes, strict=True)]
        return [
            str(path) if len(place.parts) == 1 else place.parts[0] for path, place in zip(paths, inside, strict=True)
        ]
    found = [matched("data.group", how, root, path) for path in paths]
    missing = [path for path, name in zip(paths, found, strict=True) if name is None]
    if missing:
        raise InputError(
            f"{how_to_set('data.group', how)} does not match {len(missing)} of {len(paths)} paths below {root}, such "
            f"as {missing[0].relative_to(root).as_posix()}: every image needs a group."
        )
    return [name for name in found if name is not None]


def matched(option: str, pattern: str, root: Path, path: Path) -> str | None:
    """What a regular expression finds in the path below ``root``: its first part in brackets, or else its match.

    None where it finds nothing.

    Args:
        option: where the expression comes from, for messages.
        pattern: the regular expression.
        root: a folder that ``path`` lies in.
        path: of a file.

    Raises:
        InputError: this is no regular expression.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"{how_to_set(option, pattern)}: this is no regular expression: {error}.") from error
    found = compiled.search(path.relative_to(root).as_posix())
    return None if found is None else found[1 if compiled.groups else 0]


def numbered(*kinds: Sequence[Hashable]) -> Tensor:
    """The number of the group of each image, int64 ``[N]``, in the order of the first image of each.

    Args:
        kinds: what images have in common, a value an image: those with one value of any kind are in one group, and so
            are those that others link.
    """
    import torch
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    firsts = list[int]()
    for values in kinds:
        seen = dict[Hashable, int]()
        firsts += [seen.setdefault(value, index) for index, value in enumerate(values)]
    count = len(kinds[0])
    links = coo_array((np.ones(len(firsts)), (np.tile(np.arange(count), len(kinds)), firsts)), shape=(count, count))
    _, numbers = connected_components(links, directed=False)
    return torch.from_numpy(numbers.astype(np.int64))


def whole_groups(labels: Tensor, wanted: Sequence[int], groups: Tensor, generator: torch.Generator) -> Tensor:
    """Which images to take, bool ``[N]``: groups as a whole, until each class has as many as are wanted.

    A class gives at most half of its images, so one whose images are all in one group gives none; a large group may
    make more of them than are wanted.

    Args:
        labels: int64 ``[N]``.
        wanted: how many images of each class.
        groups: the number of the group of each image, int64 ``[N]``.
        generator: draws the order in which groups are tried.
    """
    import torch

    members, of_class = defaultdict[int, list[int]](list), labels.tolist()
    for index, group in enumerate(groups.tolist()):
        members[group].append(index)
    tried, counts, taken = list(members.values()), Counter(of_class), Counter[int]()
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for number in torch.randperm(len(tried), generator=generator).tolist():
        adds = Counter(of_class[index] for index in tried[number])
        of_use = any(taken[label] < wanted[label] for label in adds)
        if of_use and all(2 * (taken[label] + more) <= counts[label] for label, more in adds.items()):
            chosen[tried[number]] = True
            taken += adds
    return chosen


def told_groups(train: Sequence[str], test: Sequence[str]) -> tuple[str, ...]:
    """Sentences about how many groups there are, and whether some train as well as test.

    Args:
        train: the names of the groups of the training images.
        test: of the test images.
    """
    training, testing = set(train), set(test)
    both = sorted(training & testing)
    counted = f"the images are of {len(training | testing)} groups; {len(training)} train, and {len(testing)} test."
    if not both:
        return (counted,)
    verb = "group trains and tests" if len(both) == 1 else "groups train and test"
    return counted, f"{len(both)} {verb}, such as {both[0]!r}: these test images may be easier than new ones."
