"""Images that are encoded but in no files of their own are read as those of a folder are."""

import pytest
import torch
from made_folder import make_folder
from PIL import Image

from ltdd_core import DataSource, EncodedImages, FileOptions, InputError, encoded_images, option
from ltdd_core.data.folder import ImageFolder
from ltdd_core.data.load import load_long_tailed
from ltdd_core.testing import check_data


def part(files):
    paths = [path for path, _ in files]
    labels = torch.tensor([label for _, label in files], dtype=torch.int64)
    return EncodedImages(labels, lambda index: paths[index].read_bytes(), lambda index: f"image {index}")


class Rows(DataSource):
    """The files of a folder, as bytes."""

    class Options(FileOptions):
        """Where they are."""

        root: str = option("", "folder")

    def load(self, generator):
        found = ImageFolder(ImageFolder.Options(root=self.options.root)).load(generator)
        paths = sorted((found.train.paths + found.test.paths), key=lambda path: (path.parent.name, path))
        names = [path.parent.name for path in paths]
        labels = [found.class_names.index(name) for name in names]
        rows = part(list(zip(paths, labels, strict=True)))
        return encoded_images(found.class_names, rows, None, None, self.options, generator)


def load(source, **options):
    return load_long_tailed("x", source(source.Options(**options)))


def test_they_become_what_the_files_become(tmp_path):
    make_folder(tmp_path / "a", {"cat": 14, "dog": 6, "owl": 1}, sides=(8, 20))
    Image.new("L", (9, 9), 200).save(tmp_path / "a" / "cat" / "grey.png")
    for size in (None, 5):
        data = load(Rows, root=str(tmp_path / "a"), image_size=size)
        assert data.image_shape == (3, size or 32, size or 32)
        assert data.test_counts == (7, 3, 0)
        files = load(ImageFolder, root=tmp_path / "a", image_size=size)
        assert (data.found, data.counts, data.resized) == (files.found, files.counts, files.resized)
        both = [torch.cat([one.train_images, one.test_images]).flatten(1).unique(dim=0) for one in (data, files)]
        assert torch.equal(*both)
    assert (
        load(Rows, root=str(tmp_path / "a"), image_size=5).test_digest
        == load(Rows, root=str(tmp_path / "a")).test_digest
    )
    check_data(Rows, root=str(tmp_path / "a"))


def test_copies_are_held_out_together(tmp_path):
    files = []
    for label in range(2):
        for level in range(4):
            path = tmp_path / f"{label}{level}.png"
            Image.new("RGB", (4, 4), (level * 20 + 7, label * 99, 0)).save(path)
            files += [(path, label)] * 5
    generator = torch.Generator().manual_seed(0)
    found = encoded_images(("a", "b"), part(files), None, None, FileOptions(test_least=2), generator)
    levels = [
        table.read(torch.arange(len(table.labels)))[:, :2, 0, 0].unique(dim=0) for table in (found.train, found.test)
    ]
    assert [len(level) for level in levels] == [6, 2]  # five of the 20 images of each class
    assert not set(map(tuple, levels[0].tolist())) & set(map(tuple, levels[1].tolist()))


def test_all_that_cannot_be_used_is_said_in_one_line(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    files = [(tmp_path / "a.png", 0), (tmp_path / "b.png", 0), (tmp_path / "b.png", 1)]
    with pytest.raises(InputError) as caught:
        encoded_images(("a", "b"), part(files), part(files[:1]), None, FileOptions(), torch.Generator())
    assert str(caught.value).startswith("image 1: this is not an image, or a damaged one")
    assert "1 more cannot be used, for this reason or another: image 2. " in str(caught.value)
    skipping = FileOptions(skip_bad=True, test_least=1)
    found = encoded_images(("a", "b"), part([*files, (tmp_path / "a.png", 1)]), part(files[:1]), None, skipping, None)
    assert (found.train.labels.tolist(), len(found.left_out)) == ([0, 1], 2)
    with pytest.raises(InputError, match="the training images: class 'b' has no training image"):
        encoded_images(("a", "b"), part(files[:1]), None, None, FileOptions(), torch.Generator())
    one_each = part([files[0], (files[0][0], 1)])
    with pytest.raises(InputError, match="without a test part some need two"):
        encoded_images(("a", "b"), one_each, None, None, FileOptions(), torch.Generator())
