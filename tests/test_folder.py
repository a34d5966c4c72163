"""One's own image folder: every common kind of image, and one clear line for what cannot be used."""

import itertools
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image

from ltdd_core import InputError
from ltdd_core.data import imagefile
from ltdd_core.data.folder import ImageFolder, held_out
from ltdd_core.data.image_groups import numbered
from ltdd_core.data.imagefile import fitted
from ltdd_core.data.load import load_long_tailed
from ltdd_core.errors import how_to_set
from ltdd_core.progress import Display
from ltdd_core.runs.facts import data_facts
from ltdd_core.seeding import generator

RED, BLUE, GREY = (200, 0, 0), (0, 0, 200), (100, 100, 100)


def load(root, **options):
    return load_long_tailed("folder", ImageFolder(ImageFolder.Options(root=root, **options)))


def source(root, seed=0, **options):
    return ImageFolder(ImageFolder.Options(root=root, **options)).load(generator(seed, "hold out"))


def refusal(root, **options):
    with pytest.raises(InputError) as caught:
        load(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def image(mode="RGB", size=(8, 8), colour=GREY):
    return Image.new("RGB", size, colour).convert(mode, palette=Image.Palette.ADAPTIVE)


def noise():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8))


def write(path, picture=None, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture or image()).save(path, **how)
    return path


NUMBERS = itertools.count()


def fill(folder, **counts):
    """Pictures that differ in a pixel, for copies of a file are told apart from pictures."""
    for name, count in counts.items():
        for i in range(count):
            picture, number = image(), next(NUMBERS)
            picture.putpixel((0, 0), (number % 256, number // 256 % 256, GREY[2]))
            write(folder / name / f"{i}.png", picture)
    return folder


@pytest.fixture
def split(tmp_path):
    """Two classes, two training images and one test image each; `a` and `b` can be added to."""
    fill(tmp_path / "train", a=2, b=2)
    fill(tmp_path / "test", a=1, b=1)
    return tmp_path


class Reading(Display):
    """Notes what is told of the reading."""

    def __init__(self):
        self.told = {}

    @contextmanager
    def work(self, what, total, unit, done=0, of=""):
        yield lambda done: self.told.setdefault((what, total, unit), []).append(done)


def test_reading_tells_how_many_images_are_decoded(split, monkeypatch):
    for number in range(5):
        write(split / "train" / "b" / f"more{number}.png", noise())
    fill(split / "val", a=4)
    whole, display = load(split), Reading()
    monkeypatch.setattr("ltdd_core.data.reading.AT_ONCE", 3)
    data = load_long_tailed("folder", ImageFolder(ImageFolder.Options(root=split)), display)
    assert display.told == {
        ("reading the training images", 9, "images"): [3, 6, 9],
        ("reading the test images", 2, "images"): [2],
        ("reading the validation images", 4, "images"): [3, 4],
    }
    assert torch.equal(data.train_images, whole.train_images)
    assert data.digest == whole.digest


# ---- which files -------------------------------------------------------------------------------------


def test_train_and_test_folders(split):
    fill(split / "train", b=5)
    data = load(split)
    assert data.class_names == ("a", "b")
    assert data.counts == (2, 5)
    assert data.test_labels.tolist() == [0, 1]
    assert data.train_images.dtype == torch.uint8
    assert data.image_shape == (3, 8, 8)
    assert (data.train_images[..., 1:] == 100).all()


def test_the_cut_applies_when_it_is_asked_for(split):
    fill(split / "train", a=10, b=10)
    assert load(split).counts == (10, 10)
    assert load(split, imbalance=5, order="reversed").counts == (2, 10)
    assert load(split, n_max=4).counts == (4, 4)


def test_one_training_image_a_class_is_enough(tmp_path):
    fill(tmp_path / "train", a=1, b=1)
    fill(tmp_path / "test", a=1, b=1)
    data = load(tmp_path)
    assert data.counts == (1, 1)
    assert torch.isfinite(data.normalisation.apply(data.train_images)).all()


@pytest.mark.parametrize(
    ("counts", "options", "tests"),
    [
        ((40, 25, 20), {}, (10, 10, 10)),
        ((40, 19, 9), {}, (10, 9, 4)),
        ((300, 200, 100), {}, (20, 20, 20)),
        ((300, 3, 1), {}, (10, 1, 0)),
        ((40, 30, 2), {"test_least": 3}, (3, 3, 1)),
        ((40, 40, 40), {"test_share": 0.9}, (20, 20, 20)),
    ],
)
def test_without_a_split_a_test_set_is_held_out(tmp_path, counts, options, tests):
    fill(tmp_path, **dict(zip("abc", counts, strict=True)))
    images = source(tmp_path, **options)
    assert tuple(torch.bincount(images.test.labels, minlength=3).tolist()) == tests
    left = [count - test for count, test in zip(counts, tests, strict=True)]
    assert torch.bincount(images.train.labels).tolist() == left
    assert len({*images.train.paths, *images.test.paths}) == sum(counts)
    for table in (images.train, images.test):
        assert [images.class_names[label] for label in table.labels] == [path.parent.name for path in table.paths]


@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=6), share=st.floats(0.01, 0.99), least=st.integers(1, 30)
)
def test_what_is_held_out_is_as_even_as_the_classes_allow(counts, share, least):
    labels = torch.repeat_interleave(torch.tensor(counts))
    test = held_out(labels, len(counts), share, least, generator(0, "hold out"))
    each = torch.bincount(labels[test], minlength=len(counts)).tolist()
    for count, tests in zip(counts, each, strict=True):
        assert tests <= count // 2  # so one is left to train, too
        assert tests == count // 2 or tests >= least
        assert tests == count // 2 or tests == max(each)


def test_data_seed_decides_what_is_held_out(tmp_path):
    fill(tmp_path, a=10, b=10)
    torch.manual_seed(1)
    first = source(tmp_path).test.paths
    torch.manual_seed(2)
    assert source(tmp_path).test.paths == first
    assert source(tmp_path, seed=1).test.paths != first


def test_two_images_a_class_are_enough_without_a_split(tmp_path):
    data = load(fill(tmp_path, a=2, b=3))
    assert data.counts == (1, 2)
    assert data.test_labels.tolist() == [0, 1]


def test_suffixes_in_upper_case_and_folders_within_count_and_others_do_not(split):
    folder = split / "train" / "a"
    write(folder / "UPPER.PNG")
    write(folder / "photo.JpEg")
    write(folder / "within" / "deeper" / "x.png")
    (folder / "named like an image.png").mkdir()
    write(folder / "._UPPER.PNG")  # what macOS leaves behind
    write(folder / ".thumbnails" / "x.png")
    for name in ("README.txt", "Thumbs.db", ".DS_Store", "no_suffix"):
        (folder / name).write_text("not an image")
    (split / "train" / "notes.txt").touch()
    (split / "train" / ".git").mkdir()
    assert load(split).counts == (5, 2)


def test_names_with_spaces_and_in_any_script(tmp_path):
    for name in ("été à la mer", "日本 の 猫", "z [1]*"):
        write(tmp_path / name / "ein Bild 1.png")
        write(tmp_path / name / "Ω?.png", image(colour=RED))
    assert load(tmp_path).class_names == ("z [1]*", "été à la mer", "日本 の 猫")


# ---- which pixels ------------------------------------------------------------------------------------


def pixels(split, picture, name="new.png", **how):
    """The image as it is read, as integers [C, H, W]; added last to a folder of colour images."""
    write(split / "train" / "b" / f"~{name}", picture, **how)
    return load(split, image_size=8).train_images[-1].int()


def close_to(found, colour):
    expected = torch.tensor(colour)[:, None, None]
    return found.shape[0] == 3 and bool(((found - expected).abs() <= 6).all())


FORMATS = {"RGB": "jpg jpeg png bmp gif webp tif tiff ppm", "RGBA": "png gif webp tif", "P": "png gif bmp tif"}


@pytest.mark.parametrize(("mode", "suffix"), [(mode, suffix) for mode in FORMATS for suffix in FORMATS[mode].split()])
def test_colour_modes_and_formats(split, mode, suffix):
    assert close_to(pixels(split, image(mode, colour=RED), f"new.{suffix}"), RED)


@pytest.mark.parametrize(("mode", "level"), [("L", 100), ("LA", 100), ("1", 255)])
def test_grey_among_colour_images(split, mode, level):
    picture = image("L").convert(mode) if mode != "1" else Image.new("1", (8, 8), 1)
    assert close_to(pixels(split, picture), (level,) * 3)


def test_transparent_pixels_are_white(split):
    rgba = image("RGBA", colour=RED)
    rgba.paste((0, 0, 255, 0), (0, 0, 8, 4))
    found = pixels(split, rgba)
    assert close_to(found[:, :4], (255, 255, 255))
    assert close_to(found[:, 4:], RED)
    assert close_to(pixels(split, Image.new("LA", (8, 8), (0, 0))), (255, 255, 255))


@pytest.mark.parametrize("transparency", [1, bytes([255, 0])])
def test_a_palette_with_transparency(split, transparency):
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([*RED, *BLUE])
    picture.paste(1, (0, 0, 8, 4))
    found = pixels(split, picture, transparency=transparency)
    assert close_to(found[:, :4], (255, 255, 255))
    assert close_to(found[:, 4:], RED)


@pytest.mark.parametrize(("orientation", "dark"), [(1, "left"), (3, "right"), (6, "top"), (8, "bottom")])
def test_photographs_are_turned_upright(split, orientation, dark):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = image("L", (32, 16), (255, 255, 255))
    picture.paste(0, (0, 0, 16, 16))
    found = pixels(split, picture, "new.jpg", exif=exif, quality=95)[0].float()
    halves = {"left": found[:, :4], "right": found[:, 4:], "top": found[:4], "bottom": found[4:]}
    assert halves[dark].mean() < 20
    assert found.mean() > 100


def test_the_middle_is_cut_out(split):
    picture = image(size=(40, 20), colour=BLUE)
    picture.paste(RED, (10, 0, 30, 20))
    assert close_to(pixels(split, picture), RED)
    assert close_to(pixels(split, picture.rotate(90, expand=True)), RED)


def test_grey_images_alone_have_one_channel(tmp_path):
    for label in "ab":
        for i, mode in enumerate(("L", "LA", "1")):
            write(tmp_path / label / f"{i}.png", image("L").convert(mode))
    assert load(tmp_path).image_shape == (1, 8, 8)
    write(tmp_path / "a" / "colour.png", image(colour=RED))
    assert load(tmp_path).image_shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("sizes", "side"),
    [
        ([(24, 24)], 24),
        ([(64, 64)], 64),
        ([(65, 65)], 32),
        ([(24, 20)], 32),
        ([(24, 24), (28, 28)], 32),
        ([(300, 5), (7, 90)], 32),
    ],
)
def test_the_size_is_their_own_where_they_agree(tmp_path, sizes, side):
    for label in "ab":
        for i in range(4):
            write(tmp_path / label / f"{i}.png", image(size=sizes[i % len(sizes)], colour=(i, 0, ord(label))))
    assert load(tmp_path).image_shape == (3, side, side)
    assert load(tmp_path, image_size=16).image_shape == (3, 16, 16)


# ---- folders that cannot be used ---------------------------------------------------------------------


def test_no_root(tmp_path):
    assert refusal(None) == "data source 'folder' needs root=: a folder with train/ and test/, one folder a class."
    assert refusal(tmp_path / "gone") == (
        f'root="{tmp_path / "gone"}": there is no such folder. Name the place of the data with root=.'
    )
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file").startswith(f'root="{tmp_path / "file"}": this is a file; give the folder')


def test_too_few_classes(tmp_path):
    assert refusal(tmp_path) == f"{tmp_path}: 0 class folder(s); at least two are needed, one a class."
    fill(tmp_path, a=3)
    assert refusal(tmp_path) == f"{tmp_path}: 1 class folder(s); at least two are needed, one a class."
    fill(tmp_path / "train", a=3)
    fill(tmp_path / "test", a=3)
    assert refusal(tmp_path) == f"{tmp_path / 'train'}: 1 class folder(s); at least two are needed, one a class."


@pytest.mark.parametrize("parts", [["train"], ["test"], ["test", "val"]])
def test_train_without_test_is_not_taken_for_classes(tmp_path, parts):
    for part in parts:
        fill(tmp_path / part, a=2, b=2)
    expected = f"{tmp_path} has only {', '.join(parts)}: give it both train/ and test/, or folders of classes."
    assert refusal(tmp_path) == expected


def test_an_empty_class(split):
    (split / "train" / "c").mkdir()
    fill(split / "test", c=1)
    (split / "train" / "c" / "README.txt").write_text("soon")
    assert refusal(split) == f"{split / 'train' / 'c'}: no image in this class folder: add some or remove it."


def test_a_class_must_have_training_images_and_may_lack_test_images(split):
    fill(split / "test", c=1)
    missing = "there is no folder for class 'c', which test/ has: add it, or remove it there."
    assert refusal(split) == f"{split / 'train'}: {missing}"
    fill(split / "train", c=1, d=1, e=2)
    (split / "test" / "e").mkdir()
    data = load(split)
    assert data.class_names == ("a", "b", "c", "d", "e")
    assert data.test_counts == (1, 1, 1, 0, 0)
    few, none = data.advice
    assert few == "3 of 5 classes have fewer than 10 test images (a 1, b 1, c 1): their accuracies are rough."
    assert none == (
        "2 of 5 classes have no test image (d, e): their accuracies are n/a, and metrics are over the other classes."
    )


def test_there_must_be_a_test_image(tmp_path):
    fill(tmp_path / "train", a=2, b=2)
    (tmp_path / "test" / "a").mkdir(parents=True)
    assert refusal(tmp_path) == f"{tmp_path / 'test'}: no image in the folders of the classes: add some."


def test_one_image_of_every_class_without_a_split(tmp_path):
    fill(tmp_path, a=1, b=1)
    assert refusal(tmp_path).startswith(
        f"{tmp_path}: every class has one image only; without train/ and test/ folders "
    )


def test_what_becomes_of_the_sizes_is_said(tmp_path):
    for number, size in enumerate([(8, 8), (20, 12), (9, 30), (8, 9)]):
        write(tmp_path / "ab"[number % 2] / f"{number}.png", image(size=size))
    data = load(tmp_path, image_size=8)
    assert data.resized == "8x8 to 9x30 -> 8x8"
    assert data.summary().endswith("test images, 8x8 to 9x30 -> 8x8")
    assert load(tmp_path).resized == "8x8 to 9x30 -> 32x32"


def test_sizes_that_stay_are_not_mentioned(split):
    data = load(split)
    assert data.resized == ""
    assert "->" not in data.summary()


@pytest.mark.parametrize(("large", "advised"), [(1, False), (2, False), (3, True)])
def test_images_that_lose_most_of_their_pixels_are_told(tmp_path, large, advised):
    for number in range(4):
        size = (17, 40) if number < large else (16, 40)
        write(tmp_path / "ab"[number % 2] / f"{number}.png", image(size=size, colour=(number, 0, 0)))
    advice = [sentence for sentence in load(tmp_path, image_size=4).advice if "--image-size" in sentence]
    assert bool(advice) == advised
    assert not advised or advice[0].endswith("small things may be lost: try --image-size 8.")


def test_a_folder_name_that_is_not_text(tmp_path):
    fill(tmp_path, a=2, b=2)
    try:
        os.mkdir(os.fsencode(tmp_path) + b"/caf\xe9")  # noqa: PTH102, a name that no str spells
    except OSError:
        pytest.skip("this file system takes valid UTF-8 only")
    assert refusal(tmp_path) == f"{tmp_path}: the folder name 'caf\\udce9' is not valid UTF-8: rename it."


@contextmanager
def forbidden(folder):
    """Permissions do not bind root, so root becomes nobody meanwhile."""
    folder.chmod(0)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX permissions")
@pytest.mark.parametrize("which", [".", "train", "train/a", "test/b/within"])
def test_a_folder_that_cannot_be_read(which):
    # Not tmp_path, whose parents nobody but the owner may enter.
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        fill(root / "train", a=2, b=2)
        fill(root / "test", a=2, b=2)
        write(root / "test" / "b" / "within" / "x.png")
        folder = root / which
        with forbidden(folder):
            assert refusal(root) == f"{folder}: cannot be read: Permission denied."


# ---- files that cannot be used -----------------------------------------------------------------------


OR_SKIP = """ data={"skip_bad": True} leaves out what cannot be used."""
GUESSED = "are not taken, since their colours would have to be guessed: save it as 8-bit RGB or grey."
TIFF = "a TIFF file that is damaged, or of channels or depths that are not read: "
OR_RANGE = """, or train with data={"range": [BLACK,WHITE]}."""
NO_IMAGE = "this is not an image, or a damaged one: remove it or put it right."
SMALL = "images need at least 4 a side: remove it."
BOMB = "more than 89 million pixels: make it smaller or remove it."


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("text.jpg", lambda path: path.write_text("I am no image"), NO_IMAGE),
        ("empty.png", lambda path: path.touch(), NO_IMAGE),
        ("link.png", lambda path: path.symlink_to("gone.png"), "cannot be read: No such file or directory."),
        ("pipe.png", os.mkfifo, "this is a pipe or a device, not an image file: remove it."),
        (
            "device.png",
            lambda path: path.symlink_to("/dev/zero"),
            "this is a pipe or a device, not an image file: remove it.",
        ),
        ("1x1.png", lambda path: write(path, image(size=(1, 1))), f"1x1 pixels; {SMALL}"),
        ("flat.png", lambda path: write(path, image(size=(90, 3))), f"90x3 pixels; {SMALL}"),
        ("float.tif", lambda path: write(path, image("F")), f"images of mode F {GUESSED[:-1]}{OR_RANGE}"),
        ("lab.tif", lambda path: write(path, Image.new("LAB", (8, 8))), f"images of mode LAB {GUESSED}"),
        ("big.png", lambda path: write(path, Image.new("1", (10_000, 9_500))), BOMB),
        ("bomb.png", lambda path: write(path, Image.new("1", (20_000, 10_000))), BOMB),
    ],
)
@pytest.mark.parametrize("part", ["train", "test"])
def test_files_that_are_refused(split, part, name, spoil, message):
    path = split / part / "a" / name
    spoil(path)
    assert refusal(split) == f"{path}: {message}{OR_SKIP}"


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "webp", "tif", "ppm"])
def test_truncated_images_are_refused(split, part, suffix):
    """Cut anywhere: within the header, after it, and shortly before the end."""
    path = write(split / part / "a" / f"cut.{suffix}", noise())
    whole = path.read_bytes()
    load(split)
    for keep in (1, 3, 5, 20, len(whole) // 3, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:keep])
        assert refusal(split).startswith(tuple(f"{path}: {why}" for why in (NO_IMAGE, TIFF, "this image is damaged (")))


def test_a_header_that_is_fine_does_not_save_a_truncated_image(split):
    path = write(split / "train" / "a" / "cut.jpg", noise(), quality=95)
    path.write_bytes(path.read_bytes()[:-100])
    with Image.open(path) as opened:
        assert opened.size == (24, 24)
    assert refusal(split).startswith(f"{path}: this image is damaged (image file is truncated")
    assert refusal(split).endswith(f"): remove it or put it right.{OR_SKIP}")


def test_all_files_that_cannot_be_used_are_counted(split):
    """Whoever has many of them need not start once for each."""
    first = split / "test" / "a" / "zz.png"
    for number in range(5):
        write(split / "test" / "b" / f"{number}x.tif", image("F"))
    first.touch()
    others = [f"{split}/test/b/{number}x.tif" for number in range(3)]
    more = "more cannot be used, for this reason or another"
    assert refusal(split) == f"{first}: {NO_IMAGE} 5 {more}: {', '.join(others)}, ...{OR_SKIP}"
    for number in range(2, 5):
        (split / "test" / "b" / f"{number}x.tif").unlink()
    assert refusal(split) == f"{first}: {NO_IMAGE} 2 {more}: {', '.join(others[:2])}.{OR_SKIP}"


def test_damaged_images_are_counted_too(split):
    """Their headers are fine, so the damage shows when they are decoded."""
    paths = [write(split / "train" / "a" / f"cut{number}.jpg", noise(), quality=95) for number in range(2)]
    for path in paths:
        path.write_bytes(path.read_bytes()[:-100])
    assert refusal(split).startswith(f"{paths[0]}: this image is damaged (image file is truncated")
    assert refusal(split).endswith(f" 1 more cannot be used, for this reason or another: {paths[1]}.{OR_SKIP}")


def test_odd_metadata_do_not_matter(split):
    """Pillow warns of these; the pixels are whole."""
    path = write(split / "train" / "b" / "~odd.jpg", image(colour=RED), quality=95)
    content = path.read_bytes()
    exif = b"\xff\xe1\0\x12Exif\0\0II*\0\x08\0\0\0\x05\0"
    path.write_bytes(content[:2] + exif + content[2:])
    with pytest.warns(UserWarning, match="Corrupt EXIF"), Image.open(path) as opened:
        opened.getexif()
    assert close_to(load(split).train_images[-1].int(), RED)


@pytest.mark.parametrize("size", [(20, 20), (31, 17), (7, 40), (8, 8)])
def test_an_image_of_another_shape_is_the_largest_middle_part_of_that_shape(size):
    picture = noise().resize(size)
    shorter = min(size)
    left, top = (size[0] - shorter) // 2, (size[1] - shorter) // 2
    square = picture.crop((left, top, left + shorter, top + shorter)).resize((8, 8), Image.Resampling.BILINEAR)
    assert np.array_equal(fitted(picture, "RGB", 8, 8), square if size != (8, 8) else picture)
    wide = fitted(picture, "L", 4, 8)
    assert (wide.size, wide.mode) == ((8, 4), "L")
    bars = Image.fromarray(np.repeat(np.arange(40, dtype=np.uint8)[None] * 6, 20, 0))
    assert np.array_equal(np.asarray(fitted(bars, "L", 20, 20))[0], np.arange(10, 30) * 6)


def damaged(path):
    """An image whose header is fine."""
    write(path, noise(), quality=95)
    path.write_bytes(path.read_bytes()[:-100])
    return path


def test_bad_images_are_left_out_where_that_is_asked_for(tmp_path):
    """What is left is as if somebody had removed them by hand: sizes, colours, what is held out, and the digest."""
    fill(tmp_path, a=8, b=5)
    clean = load(tmp_path)
    bad = [damaged(tmp_path / "a" / "cut.jpg"), tmp_path / "b" / "empty.png", tmp_path / "b" / "float.tif"]
    bad[1].touch()
    write(bad[2], image("F"))
    data = load(tmp_path, skip_bad=True)
    assert (data.digest, data.test_digest, data.resized) == (clean.digest, clean.test_digest, clean.resized)
    assert data.found == (8, 5)
    assert sorted(message.split(": ")[0] for message in data.left_out) == sorted(map(str, bad))
    said = next(sentence for sentence in data.advice if "left out" in sentence)
    assert said.startswith("3 images are left out, since they cannot be used; 'ltdd data show --json' lists all.")
    assert data_facts(data)["left_out_images"] == 3
    for path in bad[1:]:
        path.unlink()
    only = f"1 image is left out, since it cannot be used: {bad[0]}: this image is damaged ("
    assert any(sentence.startswith(only) for sentence in load(tmp_path, skip_bad=True).advice)


@pytest.mark.parametrize("part", ["train", "test", "val"])
def test_bad_images_of_each_part_are_left_out(split, part):
    fill(split / "val", a=1)
    clean = load(split)
    damaged(split / part / "a" / "cut.jpg")
    assert load(split, skip_bad=True).digest == clean.digest


def test_a_class_without_a_good_image_to_train_with_is_refused(split):
    for path in (split / "train" / "a").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    folder = split / "train" / "a"
    said = (
        f"{folder.parent}: none of the 2 training images of class 'a' can be used; the first one: {folder / '0.png'}: "
    )
    assert refusal(split, skip_bad=True).startswith(said)
    fill(folder.parent, a=1)
    for path in (split / "test").rglob("*.png"):
        path.write_bytes(b"")
    said = f"{split / 'test'}: no image that can be used in the folders of the classes: add some."
    assert refusal(split, skip_bad=True) == said


def test_looking_for_damage_decodes_every_image_and_tells_how_far_it_is(split, monkeypatch):
    decoded, display = [], Reading()
    monkeypatch.setattr(
        "ltdd_core.data.filetable.decode", lambda path, *how: decoded.append(path) or imagefile.decode(path, *how)
    )
    ImageFolder(ImageFolder.Options(root=split, skip_bad=True)).load(torch.Generator())
    assert sorted(decoded) == sorted(path for path in split.rglob("*.png"))
    load_long_tailed("folder", ImageFolder(ImageFolder.Options(root=split, skip_bad=True)), display)
    assert display.told["looking for damaged images", 6, "images"] == [6]


# ---- the digest of the test images ----------------------------------------------------------------


def test_the_digest_of_the_test_images_is_of_the_files_and_their_classes(tmp_path):
    for part in ("train", "test"):
        for index, name in enumerate(("a", "b")):
            write(tmp_path / part / name / "0.png", image(colour=(50 * index, 0, 0), size=(16, 16)))
    first = load(tmp_path, image_size=8)
    assert first.test_digest == load(tmp_path, image_size=16).test_digest == load(tmp_path).test_digest
    assert first.digest != load(tmp_path, image_size=16).digest
    write(tmp_path / "train" / "a" / "1.png")
    assert load(tmp_path).test_digest == first.test_digest  # other training images are the same test
    (tmp_path / "test" / "a" / "1.png").write_bytes((tmp_path / "test" / "b" / "0.png").read_bytes())
    one_more = load(tmp_path).test_digest
    (tmp_path / "test" / "a" / "1.png").rename(tmp_path / "test" / "b" / ".hidden.png")
    (tmp_path / "test" / "b" / ".hidden.png").rename(tmp_path / "test" / "b" / "1.png")
    assert len({first.test_digest, one_more, load(tmp_path).test_digest}) == 3


def test_a_test_image_that_goes_away_while_it_is_read_is_named(tmp_path):
    for part in ("train", "test"):
        fill(tmp_path / part, a=1, b=1)
    table = source(tmp_path).test
    (tmp_path / "test" / "a" / "0.png").unlink()
    with pytest.raises(InputError, match=r"0\.png: cannot be read"):
        table.digest()


# ---- how folders are laid out --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *(("Training", "Testing"), ("Train", "Test"), ("seg_train", "seg_test"), ("TRAIN", "test-set")),
        *(
            ("TrainingSet", "Test Images"),
            ("train2017", "val2017"),
            ("images_train", "test_data"),
            ("trainval", "eval"),
        ),
    ],
)
def test_the_usual_names_of_parts(tmp_path, train, test):
    fill(tmp_path / train, a=3, b=2)
    fill(tmp_path / test, a=1, b=2)
    data = load(tmp_path)
    assert data.counts == (3, 2)
    assert data.test_counts == (1, 2)


@pytest.mark.parametrize("name", ["trains", "latest", "strain", "valley", "tester", "segment"])
def test_a_class_is_no_part_since_its_name_has_that_of_one(tmp_path, name):
    fill(tmp_path, train=4, **{name: 4})
    assert load(tmp_path).class_names == tuple(sorted(("train", name)))


def test_a_part_that_lies_in_a_folder_of_its_own_name(tmp_path):
    fill(tmp_path / "seg_train" / "seg_train", a=3, b=2)
    fill(tmp_path / "seg_test" / "seg_test", a=1, b=2)
    assert load(tmp_path).counts == (3, 2)


def test_the_validation_part_tests_where_there_is_no_test_part(tmp_path):
    fill(tmp_path / "train", a=3, b=2)
    fill(tmp_path / "val", a=1, b=2)
    fill(tmp_path / "docs", figure=1)
    data = load(tmp_path)
    assert (data.counts, data.test_counts) == ((3, 2), (1, 2))
    assert data.advice[:2] == (
        "beside the parts, docs is left out.",
        "val is the test part, since there is no other.",
    )


def test_test_images_without_classes_are_left_out(tmp_path):
    fill(tmp_path / "train", a=6, b=4)
    fill(tmp_path, test=5)
    data = load(tmp_path)
    assert (data.counts, data.test_counts) == ((3, 2), (3, 2))
    assert data.advice[0] == "test is left out, since its images are in no folders of classes."


def test_two_folders_of_one_part(tmp_path):
    fill(tmp_path / "train", a=2, b=2)
    fill(tmp_path / "Training", a=2, b=2)
    fill(tmp_path / "test", a=2, b=2)
    assert refusal(tmp_path) == f"{tmp_path} has Training and train: keep one folder of training images."


def test_one_folder_too_deep(tmp_path):
    fill(tmp_path / "animals", a=2, b=2)
    deeper = tmp_path / "animals"
    assert refusal(tmp_path) == f"{tmp_path}: its one folder is 'animals': try {how_to_set('root', deeper)}."


def test_what_systems_leave_among_the_images(tmp_path):
    fill(tmp_path, a=4, b=4)
    for place in ("@eaDir", "__MACOSX", "$RECYCLE.BIN", ".cache", "#recycle"):
        fill(tmp_path / place, a=1)
        fill(tmp_path / "a" / place, within=2)
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"x")
    fill(tmp_path / "runs", networks=1)
    (tmp_path / "runs" / "animals-dm-seed0-1").mkdir()
    (tmp_path / "runs" / "animals-dm-seed0-1" / "run.json").write_text("{}")
    data = load(tmp_path)
    assert data.class_names == ("a", "b")
    assert data.counts == (2, 2)
    assert not any("left out" in sentence for sentence in data.advice)


def test_files_that_are_no_images_are_counted_and_a_name_without_a_suffix_is_looked_at(tmp_path):
    fill(tmp_path, a=4, b=4)
    write(tmp_path / "a" / "photo.jfif", image(colour=RED), format="JPEG")
    write(tmp_path / "a" / "download", image(colour=BLUE), format="PNG")
    for name in ("list.txt", "notes.txt", "clip.mp4", "LICENSE"):
        (tmp_path / "b" / name).write_text("no image")
    data = load(tmp_path)
    assert data.counts == (3, 2)
    assert data.advice[0] == (
        "4 files are left out, since the names do not end as those of images: 2 .txt, 1 without a suffix, 1 .mp4."
    )


def test_links_to_folders_are_followed_and_a_circle_ends(tmp_path):
    fill(tmp_path / "elsewhere", more=2)
    fill(tmp_path / "data", a=4, b=4)
    (tmp_path / "data" / "a" / "linked").symlink_to(tmp_path / "elsewhere" / "more", target_is_directory=True)
    (tmp_path / "data" / "b" / "again").symlink_to(tmp_path / "data" / "b", target_is_directory=True)
    assert load(tmp_path / "data").counts == (3, 2)


def test_names_in_either_form_of_unicode_are_one_class(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    fill(tmp_path / "train", **{composed: 3, "dog": 2})
    fill(tmp_path / "test", **{decomposed: 2, "Dog": 1})
    data = load(tmp_path)
    assert data.class_names == (composed, "dog")
    assert (data.counts, data.test_counts) == ((3, 2), (2, 1))
    fill(tmp_path / "train", **{decomposed: 1})
    assert "in different forms of Unicode" in refusal(tmp_path)


def test_names_that_differ_in_case_only_are_told(tmp_path):
    fill(tmp_path, Cat=4, cat=4, dog=4)
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this file system does not tell Cat from cat")
    assert load(tmp_path).advice[0] == "Cat and cat are different classes here."


def test_names_that_are_numbers_are_in_the_order_of_the_numbers(tmp_path):
    fill(tmp_path, **{str(number): 2 for number in (10, 2, 1, 0, 33)})
    assert load(tmp_path).class_names == ("0", "1", "2", "10", "33")


# ---- copies --------------------------------------------------------------------------------------


def test_copies_of_a_file_are_held_out_together(tmp_path):
    fill(tmp_path, a=8, b=8)
    for path in sorted(tmp_path.glob("*/*.png")):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    images = source(tmp_path)
    trained = {path.read_bytes() for path in images.train.paths}
    assert len(images.test.paths) == 16
    assert not any(path.read_bytes() in trained for path in images.test.paths)


def test_the_same_picture_in_other_files_is_told(split):
    picture = noise()
    write(split / "train" / "a" / "x.png", picture)
    write(split / "val" / "b" / "x.png", picture, compress_level=0)
    write(split / "test" / "a" / "x.bmp", picture)
    told = [sentence.split(", such as ")[0] for sentence in load(split).advice if ", such as " in sentence]
    assert told == [
        "1 validation image is a training image too",
        "1 test image is a training image too",
        "1 image is in another class too",
    ]


def test_where_images_are_held_out_each_file_is_read_once_to_compare_it(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr("ltdd_core.data.copies._digest", lambda path: read.append(path) or path.name.encode())
    for number in range(8):
        write(tmp_path / "ab"[number % 2] / f"{number}.bmp", image(colour=(number, 0, 0)))
    load(tmp_path)
    assert len(read) == len(set(read)) == 8


def test_copies_in_both_parts_and_in_two_classes_are_told(split):
    for other in ("test/a/copy.png", "test/b/copy.png", "train/b/copy.png"):
        shutil.copy(split / "train" / "a" / "0.png", split / other)
    leaked, doubtful = (sentence for sentence in load(split).advice if "too, such as" in sentence)
    a = split / "train" / "a" / "0.png"
    test = split / "test" / "a" / "copy.png"
    assert leaked == f"2 test images are training images too, such as {test}, which has the pixels of {a}."
    assert doubtful == (
        f"2 images are in another class too, such as {split / 'train' / 'b' / 'copy.png'}, which has the pixels of {a}."
    )


# ---- groups ------------------------------------------------------------------------------------------


def patients(root, **counts):
    """Folders of patients within those of the classes, ``a={"p1": 3}``; patients may have images of several classes."""
    for name, own in counts.items():
        fill(root / name, **own)
    return root


def sides(root, **options):
    """The names of the folders of the training and of the test images."""
    images = source(root, **options)
    return [{path.parent.name for path in table.paths} for table in (images.train, images.test)], images


def test_a_group_is_held_out_as_a_whole_whatever_its_classes(tmp_path):
    own = {f"p{number}": 3 for number in range(8)}
    patients(tmp_path, a=own, b={"p0": 2, "p1": 2, "p9": 4, "p10": 4})
    for seed in range(5):
        (train, test), images = sides(tmp_path, seed=seed, group="folder")
        assert not train & test
        assert train | test == {*own, "p9", "p10"}
        assert len(images.groups) == len(images.train.paths)
        for label, count in ((0, 24), (1, 12)):
            assert 1 <= (images.test.labels == label).sum() <= count // 2
        assert f"the images are of 10 groups; {len(train)} train, and {len(test)} test." in images.advice
    assert any(set.intersection(*sides(tmp_path, seed=seed)[0]) for seed in range(5))  # the option is what did it


def test_a_group_by_a_regular_expression(tmp_path):
    for number in range(24):
        write(tmp_path / "ab"[number % 2] / f"{number}_cam{number // 4}.png", image(colour=(number, 0, 0)))
    images = source(tmp_path, group=r"_cam(\d+)\.")
    train, test = ({path.stem.split("_")[1] for path in table.paths} for table in (images.train, images.test))
    assert not train & test
    assert len(train | test) == 6
    said = f'data={{"group": "_cam([0-3])"}} does not match 8 of 24 paths below {tmp_path}, such as a/16_cam4.png: '
    assert refusal(tmp_path, group="_cam([0-3])") == f"{said}every image needs a group."
    assert "this is no regular expression: " in refusal(tmp_path, group="_cam(")


def test_a_class_of_one_group_has_no_test_image_and_of_one_group_each_is_refused(tmp_path):
    patients(tmp_path, a={"p": 4, "q": 4}, b={"r": 6})
    data = load(tmp_path, group="folder")
    assert data.test_counts == (4, 0)
    assert any("1 of 2 classes has no test image (b)" in sentence for sentence in data.advice)
    shutil.rmtree(tmp_path / "a" / "q")
    assert "no class has images of two groups, so there is none to test" in refusal(tmp_path, group="folder")


def test_groups_that_train_and_test_in_parts_of_the_user_are_told(tmp_path):
    for part, names in (("train", "pq"), ("test", "qr")):
        patients(tmp_path / part, a=dict.fromkeys(names, 2), b={f"{part}1": 2})
    advice = load(tmp_path, group="folder").advice
    assert "the images are of 5 groups; 3 train, and 3 test." in advice
    assert "1 group trains and tests, such as 'q': these test images may be easier than new ones." in advice


@pytest.mark.parametrize("validation", [None, 0.2])
def test_validation_images_are_of_other_groups_than_training_images(tmp_path, validation):
    patients(tmp_path / "train", a={f"p{n}": 10 for n in range(12)}, b={f"q{n}": 10 for n in range(12)})
    fill(tmp_path / "test", a=1, b=1)
    numbers = {}
    for folder in sorted((tmp_path / "train").glob("*/*")):
        for index, path in enumerate(sorted(folder.iterdir())):
            number = numbers.setdefault(folder.name, len(numbers))
            write(path, image(colour=(number, index, 0)))
    data = load(tmp_path, group="folder", validation=validation)
    train, held = (set(images[:, 0, 0, 0].tolist()) for images in (data.train_images, data.validation_images))
    assert not train & held
    assert len(train | held) == 24
    assert set(data.validation_labels.tolist()) == {0, 1}


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.lists(st.integers(0, 5), min_size=20, max_size=20))
def test_what_images_have_in_common_makes_groups(one, other):
    """As a literal search: images are linked as long as any two groups share an image."""
    other = other[: len(one)]
    found = numbered(one, other).tolist()
    groups = [{index} for index in range(len(one))]
    for values in (one, other):
        for value in set(values):
            linked = {index for index, own in enumerate(values) if own == value}
            joined = set().union(linked, *(group for group in groups if group & linked))
            groups = [joined, *(group for group in groups if not group & linked)]
    for i, j in itertools.combinations(range(len(one)), 2):
        assert (found[i] == found[j]) == any({i, j} <= group for group in groups)
    assert list(dict.fromkeys(found)) == list(range(len(groups)))


# ---- classes by paths ----------------------------------------------------------------------------------


def flat(root, *names):
    for name in names:
        picture, number = image(), next(NUMBERS)
        picture.putpixel((0, 0), (number % 256, number // 256 % 256, GREY[2]))
        write(root / name, picture)


def test_the_path_may_say_the_class(tmp_path):
    flat(tmp_path, *(f"cat_{n}.png" for n in range(6)), *(f"more/10_{n}.png" for n in range(4)), "odd.png")
    flat(tmp_path, "runs/1/cat_pictures.png")
    (tmp_path / "runs" / "1" / "run.json").write_text("{}")
    (tmp_path / "notes.txt").touch()
    data = load(tmp_path, class_from=r"([^/]+)_\d+\.")
    assert (data.class_names, data.counts, data.test_counts) == (("10", "cat"), (2, 3), (2, 3))
    said = f'1 image is left out, such as {tmp_path / "odd.png"}: data={{"class_from": ...}} does not match.'
    assert said.replace('data={"class_from": ...}', "class_from=") in data.advice
    assert any(sentence.endswith("images: 1 .txt.") for sentence in data.advice)


def test_the_path_may_say_the_class_in_each_part(tmp_path):
    flat(tmp_path / "train", *(f"{n}/{m}.png" for n in (10, 9) for m in range(3)))
    flat(tmp_path / "test", "9/0.png", "9/1.png")
    flat(tmp_path / "val", "10/0.png")
    data = load(tmp_path, class_from=r"^\d+")
    assert (data.class_names, data.counts, data.test_counts) == (("9", "10"), (3, 3), (2, 0))
    assert data.validation_counts == (0, 1)
    for part in ("train", "test"):  # as flat as competitions have them
        shutil.rmtree(tmp_path / part)
        flat(tmp_path / part, "a-0.png", "b-1.png")
    shutil.rmtree(tmp_path / "val")
    assert load(tmp_path, class_from="^.").test_counts == (1, 1)
    flat(tmp_path / "test", "c-2.png")
    said = f"{tmp_path / 'train'}: there is no image of class 'c', which {tmp_path / 'test'} has: add some."
    assert refusal(tmp_path, class_from="^.") == said
    assert "finds 1 class(es) in the paths below" in refusal(tmp_path, class_from="-|png")
    assert "this is no regular expression: " in refusal(tmp_path, class_from="(")
    assert 'say with data={"class_from": REGEX} where in their names the class is.' in refusal(tmp_path / "test")
    assert "there is no such folder" in refusal(tmp_path / "gone", class_from=".")
