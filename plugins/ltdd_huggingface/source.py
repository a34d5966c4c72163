"""Data sets in the format of Hugging Face, in a folder or from the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import field_validator

from ltdd_core import (
    DataSource,
    EncodedImages,
    FileOptions,
    InputError,
    SourceImages,
    encoded_images,
    how_to_set,
    option,
    unknown,
)
from ltdd_huggingface.library import ONLY, check_installed, is_of_images, of_images, splits_of

if TYPE_CHECKING:
    import torch

VALIDATION = "validation", "valid", "val", "dev"
"""What a split of validation images is called."""
ON_THE_HUB = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


class HuggingFace(DataSource):
    """Data of Hugging Face: a folder of save_to_disk, of parquet or arrow files or of images, or a name on the hub."""

    argument = "root"

    class Options(FileOptions):
        """Where the data set is, and what in it is what."""

        root: Path | str | None = option(None, "folder of the data set, or its name on the hub, as uoft-cs/cifar10")
        config: str | None = option(None, "configuration of the data set, where it has several")
        revision: str | None = option(None, "branch, tag or commit on the hub; unless given, the newest")
        image_column: str | None = option(None, "column of the images; unless given, the one that is declared so")
        label_column: str | None = option(
            None, "column of the classes; unless given, the one that is declared so, or that is called 'label'"
        )
        group_column: str | None = option(
            None,
            "column of what an image belongs to, such as its patient: the test and validation images that are held out "
            "are of other groups than those that train",
        )
        train: str | None = option(None, "split that trains; unless given, 'train', or the only one")
        test: str | None = option(
            None,
            "split that tests; unless given, 'test'; without it the validation split tests, or else images are held "
            "out",
        )
        val: str | None = option(
            None, "split of validation images; unless given, 'validation', 'valid', 'val' or 'dev'"
        )

        @field_validator("root")
        @classmethod
        def _a_path_if_it_is_there(cls, root: Path | str | None) -> Path | str | None:
            """A run that moves looks for the files of options that are paths, which a name on the hub is not."""
            place = os.path.expandvars(os.path.expanduser(root or ""))  # noqa: PTH111 - as for all paths
            return Path(place) if os.path.exists(place) else root  # noqa: PTH110 - a name that no path can have

    @property
    def title(self) -> str | None:
        """The last part of the name or of the path, unless the user names the data."""
        place = self.options.root
        name = os.path.basename(os.path.abspath(place)) if place else None  # noqa: PTH100, PTH119 - ".." is no name
        return self.options.title or name or None

    def check(self) -> None:
        """See that the library is there, and that the folder is, if it is one."""
        if not self.options.root:
            raise InputError(
                f"data source 'hf' needs a folder or a name on the hub: {how_to_set('data.name', 'hf:NAME')}."
            )
        place = str(self.options.root)
        if not os.path.exists(place) and not ON_THE_HUB.fullmatch(place):  # noqa: PTH110 - a name that no path can have
            raise InputError(f"{place!r}: there is no such folder, and it is no name on the hub of Hugging Face.")
        if os.path.isfile(place):  # noqa: PTH113
            raise InputError(f"{place!r}: this is a file; give the folder that it is in.")
        check_installed()

    def load(self, generator: torch.Generator) -> SourceImages:
        """Open the splits; images are decoded when they are asked for."""
        from ltdd_huggingface.columns import classes_of, encoded, groups_of, image_column, label_column

        self.check()
        options, place = self.options, str(self.options.root)
        splits = splits_of(place, options.config, options.revision)
        parts = self._parts(place, splits)
        features = splits[parts["train"]].features
        notes = [of_images(place)] if is_of_images(splits[parts["train"]]) else []
        images = image_column(place, features, options.image_column)
        try:
            labels = label_column(place, features, options.label_column)
        except InputError as error:
            raise InputError(" ".join([str(error), *notes])) from error
        if "test" in parts and options.test is None and not _has_values(splits[parts["test"]], labels):
            notes.append(f"split {parts.pop('test')!r} is left out, since its images have no classes.")
        if "test" not in parts and "val" in parts and options.val is None:
            parts["test"] = parts.pop("val")
            notes.append(f"split {parts['test']!r} is the test part, since there is no other.")
        used = {name: splits[name] for name in parts.values()}
        classes = classes_of(place, labels, used)
        groups = {} if options.group_column is None else groups_of(place, options.group_column, used)
        found = {
            part: EncodedImages(
                classes.labels[name], *encoded(place, name, used[name], images), groups=groups.get(name)
            )
            for part, name in parts.items()
        }
        return encoded_images(
            classes.names,
            found["train"],
            found.get("test"),
            found.get("val"),
            options,
            generator,
            advice=[*self._recognised(images, labels), *_left_out(splits, used, notes), *classes.told_unused()],
            display=self.display,
        )

    def _parts(self, place: str, splits: Mapping[str, Any]) -> dict[str, str]:
        """The split of each part that there is."""
        found = {part: getattr(self.options, part) for part in ("train", "test", "val")}
        given = [name for name in found.values() if name is not None]
        for name in given:
            if name not in splits:
                raise InputError(f"{place}: {unknown('split', name, splits)}")
            if given.count(name) > 1:
                raise InputError(f"{place}: split {name!r} cannot be two parts.")
        usual = {"train": (ONLY,), "test": ("test",), "val": VALIDATION}
        for part, names in usual.items():
            free = [name for name in names if name in splits and name not in given]
            found[part] = found[part] or (free[0] if free else None)
        if found["train"] is None and len(splits) == 1:
            found["train"] = next(iter(splits))
        if found["train"] is None:
            raise InputError(
                f"{place}: none of its splits is called 'train': say which with {how_to_set('data.train', 'NAME')}. "
                f"They are {', '.join(splits)}."
            )
        return {part: name for part, name in found.items() if name is not None}

    def _recognised(self, images: str, labels: str) -> list[str]:
        """Which columns were chosen, if the user names none."""
        if self.options.image_column is not None and self.options.label_column is not None:
            return []
        return [f"column {images!r} has the images, and column {labels!r} the classes."]


def _has_values(split: Any, column: str) -> bool:
    """Whether some image has a class: those of competitions have none, or -1."""
    from ltdd_huggingface.columns import values_of

    return column in split.features and any(value is not None for value in values_of(split, column))


def _left_out(splits: Mapping[str, Any], used: Mapping[str, Any], notes: list[str]) -> list[str]:
    """What is said of the splits, those among it that nothing else is said of."""
    others = [repr(name) for name in splits if name not in used and not any(repr(name) in note for note in notes)]
    if not others:
        return notes
    are = f"split {others[0]} is" if len(others) == 1 else f"splits {', '.join(others)} are"
    return [*notes, f"{are} not used."]
