"""A line of a list is a path, a space and a class.  The first line of a CSV or TSV file names its columns."""

# torch is imported by what needs it, so that what a list lacks is said at once.

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from ltdd_core.data.folder import PathOptions, Reading, images_of, name_of_place
from ltdd_core.data.image_groups import ALONE, Groups
from ltdd_core.data.layout import alike_but_for_case
from ltdd_core.data.listed_classes import Classes, classes_of
from ltdd_core.data.listfile import TABLES, Columns, Faults, Listed, is_table, read_class_names, read_list
from ltdd_core.data.listing import Files, Listing
from ltdd_core.data.source import DataSource, Order, SourceImages
from ltdd_core.errors import InputError, how_to_set
from ltdd_core.options import option

if TYPE_CHECKING:
    import torch

PARTS: tuple[Literal["train", "test", "val"], ...] = ("train", "test", "val")
MOST_NAMED = 3
"""Missing files in a message."""


class ImageList(DataSource):
    """Images that text files or CSV files list, with the class of each: ``--root DIR --train FILE --test FILE``."""

    class Options(PathOptions):
        """The data as they are, unless an imbalance is asked for."""

        root: Path | None = option(
            None,
            "folder that the paths in the lists start from, and that the lists may lie in",
            unless_given="the folder of the training list",
        )
        train: Path | None = option(None, "list of the training images, or of all images, with a column of parts")
        test: Path | None = option(
            None,
            "list of the test images; unless given, those that a column of parts says, else the validation images; "
            "where there are none, some training images are held out",
        )
        val: Path | None = option(None, "list of the validation images")
        class_names: Path | None = option(
            None, "file with the names of the classes where labels are numbers, one on each line"
        )
        path_column: str | None = option(
            None, "column of the paths in a CSV file", unless_given="a usual name: path, file, image, image_id, ..."
        )
        label_column: str | None = option(
            None, "column of the classes in a CSV file", unless_given="a usual name: label, class, target, ..."
        )
        split_column: str | None = option(
            None,
            "column of a CSV file that says whether an image is of the train, test or val part",
            unless_given="a usual name, if its values are parts: split, subset, ...",
        )
        group_column: str | None = option(
            None,
            "column of a CSV file that says what an image belongs to, such as its patient: the test and validation "
            "images that are held out are of other groups than those that train",
        )
        suffix: str = option("", "ending of each path, for lists that name images without .jpg")
        order: Order = option(
            "native",
            "order of the classes from head to tail: native (by number or name), reversed or random; unused if "
            "imbalance is natural",
        )

    places: ClassVar[tuple[str, ...]] = ("",)
    """Folders within the root where a list may lie."""

    hint: ClassVar[str] = ""
    """Where to learn more, for one who lacks a list: a sentence that begins with a space."""

    @property
    def title(self) -> str | None:
        """The name of the folder that the paths start from, unless the user names the data; a list is called train."""
        known = self.options.root or self.options.train
        return self.options.title or (known and name_of_place(self.root)) or None

    @property
    def root(self) -> Path:
        """What the paths in the lists start from."""
        return self.options.root or Path(self.options.train).parent

    def check(self) -> None:
        """See that the folder and the lists are there."""
        if self.options.train is None:
            raise InputError(
                f"data source 'list' needs {how_to_set('data.train')}: a file with a path and a label on each line, or "
                "a CSV file."
            )
        if self.options.root is not None and not os.path.isdir(self.root):  # noqa: PTH112 - a name that no path can have
            raise InputError(f"{how_to_set('data.root', self.options.root)}: there is no such folder.{self.hint}")
        lists = [place for part in PARTS if (place := self._place(part)) is not None]
        self._place("class_names")
        self._check_columns(lists)

    def load(self, generator: torch.Generator) -> SourceImages:
        """Read the lists, see that the files are there, and hold out a test set if there is none."""
        self.check()
        options, faults = self.options, Faults()
        lists, notes = self._lists(faults)
        place = self._place("class_names")
        classes = classes_of(lists, None if place is None else read_class_names(place), faults)
        faults.refuse()
        files = self._files(lists, classes)
        notes = (*notes, *classes.notes, *_twice(lists), *alike_but_for_case(classes.names))
        return images_of(
            Listing(classes.names, files["train"], files.get("test"), files.get("val"), notes, "a list of test images"),
            self.root,
            generator,
            Reading.of(options),
            group=self._groups(lists, files),
            display=self.display,
        )

    def _check_columns(self, lists: Sequence[Path]) -> None:
        """See that some list has columns, where one is named; groups are those of the training images, the first list.

        Raises:
            InputError: none has.
        """
        for name in ("path_column", "label_column", "split_column", "group_column"):
            column, having = getattr(self.options, name), lists[:1] if name == "group_column" else lists
            if column is not None and not any(map(is_table, having)):
                raise InputError(
                    f"{how_to_set(f'data.{name}', column)}: {having[0]} has no columns; a list whose name ends in "
                    f"{' or '.join(TABLES)} has some."
                )

    def _place(self, name: str) -> Path | None:
        """Where the file of an option is: as it is named, or in the root; None if it is not given."""
        file = getattr(self.options, name)
        if file is None:
            return None
        for place in (file, *(self.root / folder / file for folder in self.places if self.options.root)):
            if os.path.isfile(place):  # noqa: PTH113 - a name that no path can have is none
                return Path(place)
        raise InputError(
            f"{how_to_set(f'data.{name}', file)}: there is no such file, from here or in {self.root}.{self.hint}"
        )

    def _lists(self, faults: Faults) -> tuple[dict[str, Listed], tuple[str, ...]]:
        """The list of each part that there is, and what to know about them."""
        options, found, notes = self.options, dict[str, Listed](), dict[str, None]()
        columns = Columns(options.path_column, options.label_column, options.split_column, options.group_column)
        alone = options.test is None and options.val is None
        for part in PARTS:
            place = self._place(part)
            if place is None:
                continue
            listed = read_list(place, columns, faults)
            notes |= dict.fromkeys(listed.notes)
            if not listed.has_parts:
                found[part] = listed
            elif alone:
                found |= {name: listed.of(name) for name in PARTS}
            else:  # one file may be the list of several parts
                found[part] = listed.of(part) if listed.of(part).entries else listed
        found = {part: listed for part, listed in found.items() if listed.entries}
        if "train" not in found:
            faults.refuse()
            raise InputError(f"{self._place('train')}: no image is in the training part.")
        if "test" not in found and "val" in found:
            found["test"] = found.pop("val")
            notes["the validation images are the test part, since there is no other."] = None
        return found, tuple(notes)

    def _groups(self, lists: Mapping[str, Listed], files: Mapping[str, Files]) -> Groups:
        """How the images are grouped: by a column, or else as the option ``data.group`` says."""
        options = self.options
        if options.group_column is None:
            return str(options.group)
        if options.group != ALONE:
            raise InputError(f"{how_to_set('data.group')} and {how_to_set('data.group_column')}: keep one of the two.")
        return {
            path: entry.group or str(path)  # a list without columns has no groups
            for part, listed in lists.items()
            for path, entry in zip(files[part].paths, listed.entries, strict=True)
        }

    def _files(self, lists: Mapping[str, Listed], classes: Classes) -> dict[str, Files]:
        """The files of each part; those that are missing are left out later, with all that cannot be used.

        Raises:
            InputError: some are missing, and are not to be left out.
        """
        import torch

        found, absent, suffix = dict[str, Files](), list[str](), self.options.suffix
        for part, listed in lists.items():
            paths = [os.path.join(self.root, entry.name + suffix) for entry in listed.entries]  # noqa: PTH118
            gone = missing(paths)
            for place in gone:
                paths[place] = paths[place].replace("\\", "/")  # as a list that was written on Windows needs it
            labels = torch.tensor(classes.of(listed), dtype=torch.int64)
            found[part] = Files(self.root, [*map(Path, paths)], labels, _homes(paths))
            absent += [
                f"{paths[place]} ({listed.file}:{listed.entries[place].line})"
                for place in gone
                if not os.path.exists(paths[place])  # noqa: PTH110 - a name that no path can have is none
            ]
        total = sum(len(files.paths) for files in found.values())
        if absent and not (self.options.skip_bad and len(absent) < total):
            named = ", ".join(absent[:MOST_NAMED]) + ("" if len(absent) <= MOST_NAMED else ", ...")
            are = "is" if len(absent) == 1 else "are"
            raise InputError(
                f"{len(absent)} of {total} files {are} missing: {named}. The paths start from {self.root}, unless "
                f"{how_to_set('data.root', 'DIR')} says otherwise; {how_to_set('data.suffix', '.jpg')} adds an ending, "
                f"and {how_to_set('data.skip_bad', True)} leaves out what is missing."
            )
        return found


def _homes(paths: Sequence[str]) -> list[Path]:
    """The folder that the folder of each image lies in, so that images of one folder can be a group."""
    folders = [os.path.dirname(path) for path in paths]  # noqa: PTH120 - a string is quicker
    homes = {folder: Path(folder).parent for folder in set(folders)}
    return [homes[folder] for folder in folders]


def missing(paths: Sequence[str]) -> list[int]:
    """The places of the files that are not there; paths are strings, since there may be a million.

    Folders are listed, which takes far less than to ask for each file where a network drive is asked; a file that is
    not listed may still be there under a name in other letters, on a system that ignores case.
    """
    folders, absent = dict[str, set[str]](), list[int]()
    for place, path in enumerate(paths):
        folder, name = os.path.split(path)
        if folder not in folders:
            try:
                folders[folder] = {*os.listdir(folder or ".")}  # noqa: PTH208
            except OSError:
                folders[folder] = set()
        if name not in folders[folder] and not os.path.exists(path):  # noqa: PTH110
            absent.append(place)
    return absent


def _twice(lists: Mapping[str, Listed]) -> Iterator[str]:
    """Sentences about files that one list has several times."""
    for listed in lists.values():
        name, often = Counter(entry.name for entry in listed.entries).most_common(1)[0]
        extra = len(listed.entries) - len({entry.name for entry in listed.entries})
        if extra:
            lines = "1 line has a file" if extra == 1 else f"{extra} lines have a file"
            yield f"{listed.file.name}: {lines} that is there already, and each counts; {name} is there {often} times."
