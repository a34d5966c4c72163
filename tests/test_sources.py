"""Digits, NumPy archives, and torchvision's sets with and without their files."""

import io
import os
import re
import struct
import time
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Noting
from PIL import Image

from ltdd_core import InputError
from ltdd_core.data.digits import Digits
from ltdd_core.data.load import load_long_tailed
from ltdd_core.data.longtail import exponential_counts
from ltdd_core.data.npz import Npz
from ltdd_core.data.vision import Cifar10, Cifar10Thousand, Cifar100, FashionMnist, Svhn

CIFAR10_ZIP = Path(__file__).parents[2] / "shared" / "data" / "cifar10.zip"


def load(source, **options):
    return load_long_tailed(source.__name__.lower(), source(source.Options(**options)))


def refusal(source, **options):
    with pytest.raises(InputError) as caught:
        load(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- digits --------------------------------------------------------------------------------------


def test_digits_are_all_there_and_cut_to_if_50():
    data = load(Digits)
    assert data.counts == tuple(exponential_counts(10, 124, 50))
    assert data.counts[-1] == 2
    assert torch.bincount(data.test_labels).tolist() == [50] * 10
    assert data.class_names == tuple("0123456789")
    assert data.image_shape == (1, 8, 8)
    assert data.train_images.dtype == data.test_images.dtype == torch.uint8
    assert data.train_images.max() == 255
    assert sum(load(Digits, imbalance="natural").counts) + 500 == 1797


def test_digits_test_images_are_held_out_of_training():
    data = load(Digits, imbalance="natural")
    rows = torch.cat([data.train_images, data.test_images]).flatten(1)
    assert len(rows.unique(dim=0)) == 1797  # no two digits are equal, so none is in both parts


def test_digits_depend_on_data_seed_only():
    torch.manual_seed(1)
    first = load(Digits)
    torch.manual_seed(2)
    again, other = load(Digits), load(Digits, seed=1)
    for part in ("train_images", "train_labels", "test_images", "test_labels"):
        assert torch.equal(getattr(first, part), getattr(again, part))
    assert not torch.equal(first.train_images, other.train_images)
    assert not torch.equal(first.test_images, other.test_images)


def test_digits_test_per_class():
    assert torch.bincount(load(Digits, test_per_class=3).test_labels).tolist() == [3] * 10


# ---- npz -----------------------------------------------------------------------------------------


def arrays(channels=3, columns=True, classes=3):
    """A small archive: images whose pixels are their number, as MedMNIST lays them out."""
    made = {}
    for part, n in (("train", 4 * classes), ("val", 2), ("test", 2 * classes)):
        shape = (n, 8, 6) if channels is None else (n, 8, 6, channels)
        made[f"{part}_images"] = np.random.default_rng(n).integers(0, 256, shape, dtype=np.uint8)
        labels = np.arange(n) % classes
        made[f"{part}_labels"] = labels[:, None] if columns else labels
    return made


def save(tmp_path, made, write=np.savez):
    path = tmp_path / "set.npz"
    write(path, **made)
    return path


@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_npz_in_every_layout(tmp_path, channels, columns, write):
    made = arrays(channels, columns)
    data = load(Npz, root=save(tmp_path, made, write))
    assert data.counts == (4, 4, 4)
    assert data.class_names == ("0", "1", "2")
    assert data.image_shape == (channels or 1, 8, 6)
    test = made["test_images"].reshape(6, 8, 6, -1)
    assert torch.equal(data.test_images, torch.from_numpy(test).permute(0, 3, 1, 2))
    assert data.test_labels.tolist() == [0, 1, 2, 0, 1, 2]
    train = torch.from_numpy(made["train_images"].reshape(12, 8, 6, -1)).permute(0, 3, 1, 2)
    assert torch.equal(data.train_images, train[[0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]])


def test_npz_of_any_channels_where_they_are_declared(tmp_path):
    made = arrays(4)
    path = save(tmp_path, made)
    said = 'if the last axis is that of the channels, say so with data={"channels": 4}.'
    assert refusal(Npz, root=path).endswith(said)
    data = load(Npz, root=path, channels=4)
    assert data.image_shape == (4, 8, 6)
    assert torch.equal(data.test_images, torch.from_numpy(made["test_images"]).permute(0, 3, 1, 2))
    assert "which is 4 channel(s) and not" in refusal(Npz, root=path, channels=5)
    assert load(Npz, root=save(tmp_path, arrays(None)), channels=1).image_shape == (1, 8, 6)


@pytest.mark.parametrize(
    ("kind", "levels"), [(np.float32, (0, 1)), (np.float64, (-1000, 400)), (np.int16, (300, -20)), (np.uint16, None)]
)
def test_npz_of_other_numbers_where_their_range_is_known(tmp_path, kind, levels):
    made, (black, white) = arrays(), levels or (0, 65535)
    expected = load(Npz, root=save(tmp_path, made))
    for part in ("train", "val", "test"):
        made[f"{part}_images"] = (black + (white - black) * (made[f"{part}_images"] / 255)).round(6).astype(kind)
    data = load(Npz, root=save(tmp_path, made), range=levels)
    assert (data.train_images.int() - expected.train_images.int()).abs().max() <= 1
    assert data.values == levels
    if levels is not None:
        assert "nobody has said which are black and white: put it right, or say it with" in refusal(
            Npz, root=save(tmp_path, made)
        )
        far = [white, white + 1]
        assert "most values of train_images lie beyond" in refusal(Npz, root=save(tmp_path, made), range=far)
        assert "data.range needs two different numbers" in refusal(Npz, root=save(tmp_path, made), range=(1, 1))
    if kind == np.float32:
        made["train_images"][0, 0, 0] = np.nan
        said = refusal(Npz, root=save(tmp_path, made), range=levels)
        assert said.endswith("a value is infinite or no number (NaN): put it right.")  # the range is there already


def test_npz_labels_of_any_integer_type_and_byte_order(tmp_path):
    for kind in (np.uint8, np.int32, np.dtype(">i4"), np.uint64):
        made = arrays()
        made["train_labels"] = made["train_labels"].astype(kind)
        assert load(Npz, root=save(tmp_path, made)).train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def without(name):
    return lambda made: made.pop(name)


def changed(name, change):
    return lambda made: made.update({name: change(made[name])})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("test_labels"), "array 'test_labels' is missing; it has test_images, train_images, "),
        (
            changed("train_images", lambda x: x / 255),
            "train_images: values are float64, and nobody has said which are bl",
        ),
        (changed("train_images", lambda x: x.astype(str)), r"train_images are <U3 \[12, 8, 6, 3\], not numbers"),
        (
            changed("train_images", lambda x: x.transpose(0, 3, 1, 2)),
            r"train_images are \[12, 3, 8, 6\], not \[N, H, W\]",
        ),
        (changed("test_images", lambda x: x[:, :1, :1]), r"test_images have 1x1 pixels"),
        (changed("test_images", lambda x: x[:, :0]), r"test_images have 6x0 pixels"),
        (changed("train_images", lambda x: x[:, :-1]), r"differ in shape: \[3, 7, 6\] and \[3, 8, 6\]"),
        (changed("train_labels", lambda x: np.eye(3, dtype=int)[x[:, 0]]), "train_labels have 3 columns"),
        (changed("train_labels", lambda x: x[:-1]), "12 train_images but 11 train_labels"),
        (changed("train_labels", lambda x: x.astype(float)), "train_labels must be whole numbers from 0"),
        (changed("train_labels", lambda x: x - 1), "train_labels must be whole numbers from 0"),
        (changed("train_labels", lambda x: x + 2**62), "train_labels must be whole numbers from 0"),
        (changed("train_labels", lambda x: x.astype(np.uint64) + np.uint64(2**63)), "must be whole numbers from 0"),
        (changed("train_labels", lambda x: x.astype(object)), "Object arrays cannot be loaded"),
        (changed("train_labels", lambda x: x.astype(str)), "train_labels must be whole numbers from 0"),
        (changed("train_labels", lambda x: x * 2), "train_labels have no 1: labels run from 0 to 4"),
        (lambda made: made.update({k: v[:0] for k, v in made.items()}), "0 train_images but 0 train_labels"),
    ],
)
def test_npz_that_is_malformed_is_refused(tmp_path, spoil, message):
    made = arrays()
    spoil(made)
    path = save(tmp_path, made)
    text = refusal(Npz, root=path)
    assert text.startswith(f"{path}: ")
    assert re.search(message, text), text


def test_npz_may_lack_test_images_of_a_class(tmp_path):
    made = arrays()
    changed("test_labels", lambda x: x % 2)(made)
    data = load(Npz, root=save(tmp_path, made))
    assert data.test_counts[2] == 0
    assert any("1 of 3 classes has no test image (2)" in sentence for sentence in data.advice)


def test_of_an_npz_without_a_test_part_one_is_held_out(tmp_path):
    made = arrays()
    whole = np.bincount(made["train_labels"].reshape(-1))
    for name in ("test_images", "test_labels", "val_images", "val_labels"):
        made.pop(name)
    path = save(tmp_path, made)
    data = load(Npz, root=path)
    assert data.found == tuple(whole)
    assert data.test_counts == tuple(count // 2 for count in whole)  # the floor of 10 is more than there is
    assert load(Npz, root=path, test_least=1).test_counts == (1, 1, 1)
    only = save(tmp_path, {"train_images": made["train_images"][:3], "train_labels": np.arange(3)})
    assert refusal(Npz, root=only) == (
        f"{only}: every class has one image only; without test_images some need two, one to train and one to test: add "
        "some, or make test_images."
    )


@pytest.mark.parametrize("size", [None, 8])
def test_of_an_npz_the_images_of_a_group_stay_together(tmp_path, size):
    labels, patients = np.arange(24) % 2, np.arange(24) // 4  # six patients, with two images of each class
    pixels = np.broadcast_to(patients[:, None, None] * 10, (24, 6, 6)).astype(np.uint8)
    made = {"train_images": pixels, "train_labels": labels, "train_patients": patients.astype("<U3")}
    data = load(Npz, root=save(tmp_path, made), group="patients", image_size=size, validation=0.2)
    parts = [{int(image[0, 0, 0]) for image in part} for part in (data.train_images, data.test_images)]
    parts.append({int(image[0, 0, 0]) for image in data.validation_images})
    assert sum(map(len, parts)) == len(set.union(*parts)) == 6
    counted = [sentence for sentence in data.advice if "groups" in sentence]
    assert counted == [f"the images are of 6 groups; {6 - len(parts[1])} train, and {len(parts[1])} test."]
    path = tmp_path / "set.npz"
    assert "array 'train_cameras' is missing; it has train_images, " in refusal(Npz, root=path, group="cameras")
    save(tmp_path, {**made, "train_patients": patients[:5]})
    said = "train_patients are int64 [5]; 24 whole numbers or texts are needed, one group an image."
    assert refusal(Npz, root=path, group="patients") == f"{path}: {said}"


def test_an_npz_that_is_scaled_tells_how_far_it_is(tmp_path):
    begun = []
    load_long_tailed("npz", Npz(Npz.Options(root=save(tmp_path, arrays()), image_size=8)), Noting([], begun))
    assert [total for _, total, _ in begun][:3] == [12, 6, 2]  # training, test and validation images


def test_of_an_npz_without_a_test_part_the_validation_part_tests_as_that_of_a_folder_does(tmp_path):
    made = arrays()
    for name in ("test_images", "test_labels"):
        made.pop(name)
    data = load(Npz, root=save(tmp_path, made))
    assert torch.equal(data.test_images, torch.from_numpy(made["val_images"]).permute(0, 3, 1, 2))
    assert data.validation_images is None
    assert data.counts == (4, 4, 4)
    assert data.advice[0] == "val_images are the test part, since there are no test_images."


def test_npz_of_one_class(tmp_path):
    assert "1 class; a classifier needs at least two" in refusal(Npz, root=save(tmp_path, arrays(classes=1)))


@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("lay_out", [np.ascontiguousarray, np.asfortranarray])
def test_npz_of_another_size_is_scaled_as_files_are(tmp_path, monkeypatch, channels, lay_out):
    monkeypatch.setattr("ltdd_core.data.npz.AT_ONCE", 5)  # 12 images are read in three parts
    made = arrays(channels)
    path = save(tmp_path, {name: lay_out(array) for name, array in made.items()}, np.savez_compressed)
    data, as_it_is = load(Npz, root=path, image_size=5), load(Npz, root=path)
    assert (data.image_shape, data.resized) == ((channels or 1, 5, 5), "6x8 -> 5x5")
    assert (data.test_digest, as_it_is.resized) == (as_it_is.test_digest, "")
    for images, name in ((data.test_images, "test_images"), (data.validation_images, "val_images")):
        for image, pixels in zip(images, made[name], strict=True):
            middle = Image.fromarray(pixels.squeeze()).crop((0, 1, 6, 7))  # 8 rows of 6 pixels
            expected = np.asarray(middle.resize((5, 5), Image.Resampling.BILINEAR)).reshape(5, 5, -1)
            assert torch.equal(image, torch.from_numpy(expected.copy()).permute(2, 0, 1))
    assert torch.equal(data.train_images, load(Npz, root=save(tmp_path, made), image_size=5).train_images)


def test_npz_of_another_size_may_have_a_range_and_channels(tmp_path):
    made = arrays()
    for name in ("train", "val", "test"):
        if f"{name}_images" in made:
            images = made[f"{name}_images"].astype(np.float32) / 255
            made[f"{name}_images"] = np.concatenate([images, images[..., :1]], axis=-1)
    path = save(tmp_path, made)
    plain = load(Npz, root=path, channels=4, range=(0, 1))
    scaled = load(Npz, root=path, channels=4, range=(0, 1), image_size=5)
    assert scaled.image_shape == (4, 5, 5)
    assert torch.equal(scaled.train_images[:, 0], scaled.train_images[:, 3])  # each channel for itself
    assert scaled.test_digest == plain.test_digest


def test_npz_of_another_size_that_is_damaged_is_refused_as_well(tmp_path):
    path = save(tmp_path, arrays())
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        content[archive.getinfo("test_images.npy").header_offset + 300] ^= 1  # a pixel
    path.write_bytes(content)
    assert "Bad CRC-32" in refusal(Npz, root=path, image_size=5)
    made = arrays()
    made["train_images"] = made["train_images"].astype(float)
    assert "nobody has said which are black and white" in refusal(Npz, root=save(tmp_path, made), image_size=5)


# ---- MedMNIST ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes", "first"),
    [
        ("pathmnist", 9, "adipose"),
        ("PathMNIST_64", 9, "adipose"),
        ("organcmnist_224", 11, "bladder"),
        ("breastmnist", 2, "malignant"),
        ("retinamnist", 5, "0"),
        ("pathmnist", 8, "0"),  # not all of its classes, so nobody knows which
        ("pathmnist_own", 9, "0"),
    ],
)
def test_the_classes_of_medmnist_by_the_name_of_the_file(tmp_path, name, classes, first):
    path = tmp_path / f"{name}.npz"
    np.savez(path, **arrays(classes=classes))
    data = load(Npz, root=path)
    assert (data.class_names[0], len(data.class_names), data.name) == (first, classes, name)
    assert data.validation_labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chestmnist", "an image of chestmnist has several classes at once; one class an image is needed."),
        ("ChestMNIST_64", "several classes at once"),
        ("organmnist3d", "this set of MedMNIST has volumes; images of two dimensions are needed."),
        ("vesselmnist3d_64", "has volumes"),
    ],
)
def test_sets_of_medmnist_that_are_no_images_of_one_class_are_refused(tmp_path, name, message):
    np.savez(tmp_path / f"{name}.npz", **arrays())
    assert message in refusal(Npz, root=tmp_path / f"{name}.npz")


def test_npz_never_unpickles(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    made = arrays()
    made["train_images"] = np.array([Bomb()], dtype=object)
    assert "Object arrays cannot be loaded" in refusal(Npz, root=save(tmp_path, made))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_npz_whose_header_claims_terabytes_is_refused_before_any_room_is_made(tmp_path, write):
    path = save(tmp_path, arrays(), write)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**36, 32, 32)})
    members["train_images.npy"] = header.getvalue() + bytes(1000)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert refusal(Npz, root=path) == (
        f"{path}: 'train_images' claims {2**46} bytes, which the file cannot hold: it is damaged."
    )


def test_npz_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "set.npz")
    assert "this is a pipe or a device" in refusal(Npz, root=tmp_path / "set.npz")


def test_npz_that_is_no_archive(tmp_path):
    path = tmp_path / "set.npz"
    assert refusal(Npz, root=path) == (f'root="{path}": there is no such file. Name the place of the data with root=.')
    assert "this is a folder" in refusal(Npz, root=tmp_path)
    assert "needs root=" in refusal(Npz)
    for content in (b"", b"hello", b"\x80\x04K\x01."):
        path.write_bytes(content)
        assert refusal(Npz, root=path).startswith(f"{path}: this is not a .npz archive")
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    assert refusal(Npz, root=path).startswith(f"{path}: this is not a .npz archive")
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("train_images", "train_labels"):
            archive.writestr(name, "text")
    assert "'train_images' is not a NumPy array" in refusal(Npz, root=path)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_npz_with_damaged_bytes(tmp_path, write):
    path = save(tmp_path, arrays(), write)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert refusal(Npz, root=path).startswith(f"{path}: this is not a .npz archive")
    middle = len(whole) // 4
    path.write_bytes(whole[:middle] + bytes(byte ^ 255 for byte in whole[middle : middle + 40]) + whole[middle + 40 :])
    assert refusal(Npz, root=path).startswith(f"{path}: cannot be read as an archive of plain arrays (")


def test_npz_with_a_damaged_stream_or_a_password(tmp_path):
    made = {name: array * 0 for name, array in arrays().items()}  # so that they are packed, not stored
    path = save(tmp_path, made, np.savez_compressed)
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("train_images.npy").header_offset
    whole = path.read_bytes()
    content = start + 30 + sum(struct.unpack_from("<HH", whole, start + 26))  # after the name and what follows it
    path.write_bytes(whole[:content] + b"\xff" * 8 + whole[content + 8 :])
    assert "invalid block type" in refusal(Npz, root=path)
    locked = bytearray(whole)
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        locked[whole.index(mark) + flags] |= 1
    path.write_bytes(locked)
    assert "is encrypted" in refusal(Npz, root=path)


# ---- torchvision ---------------------------------------------------------------------------------


@pytest.fixture
def no_network(monkeypatch):
    """A proxy where nobody listens, so that a machine with network downloads nothing either."""
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    urllib.request.install_opener(urllib.request.build_opener())
    yield
    urllib.request.install_opener(None)


@pytest.mark.parametrize(
    ("source", "files"),
    [
        (Cifar10, "the folder cifar-10-batches-py of cifar-10-python.tar.gz"),
        (Cifar10Thousand, "the folder cifar-10-batches-py of cifar-10-python.tar.gz"),
        (Cifar100, "the folder cifar-100-python of cifar-100-python.tar.gz"),
        (Svhn, "train_32x32.mat and test_32x32.mat"),
        (FashionMnist, "FashionMNIST/raw with the four idx files"),
    ],
)
def test_without_files_and_network_it_says_what_to_put_where(tmp_path, capfd, no_network, source, files):
    began = time.monotonic()
    text = refusal(source, root=tmp_path)
    assert time.monotonic() - began < 20
    assert text.startswith(f"{source.dataset} under {tmp_path} is missing or damaged, and cannot be downloaded (")
    assert f"Put {files} there, or give root= a folder with train/ and test/" in text
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_fails_leaves_no_cache_folder(tmp_path, monkeypatch, no_network):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert str(tmp_path / "cache" / "ltdd") in refusal(FashionMnist)
    assert not (tmp_path / "cache").exists()


def test_a_root_that_is_no_folder_is_refused_before_any_download(tmp_path):
    (tmp_path / "file").touch()
    assert refusal(Cifar10, root=tmp_path / "gone") == (
        f'root="{tmp_path / "gone"}": there is no such folder. Name the place of the data with root=.'
    )
    assert "this is a file" in refusal(Cifar10, root=tmp_path / "file")
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("damage", ["batches", "mat"])
def test_damaged_files_are_refused_without_being_unpickled(tmp_path, no_network, damage):
    folder = tmp_path / "cifar-10-batches-py" if damage == "batches" else tmp_path
    folder.mkdir(exist_ok=True)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta", "train_32x32.mat"]
    for name in names:
        (folder / name).write_bytes(b"cos\nsystem\n")
    assert "is missing or damaged" in refusal(Cifar10 if damage == "batches" else Svhn, root=tmp_path)
    assert (folder / names[0]).read_bytes() == b"cos\nsystem\n"


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def fashion(tmp_path):
    """Files in Fashion-MNIST's format, which torchvision takes without a checksum; 30 + 10 images."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 30), ("t10k", 10)):
        write_idx(raw / f"{part}-images-idx3-ubyte", np.arange(n)[:, None, None] * np.ones((1, 28, 28)))
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(n) % 10)
    return tmp_path


def test_torchvisions_own_files_are_read(fashion, capfd):
    data = load(FashionMnist, root=fashion, imbalance="natural")
    assert data.counts == (3,) * 10
    assert data.image_shape == (1, 28, 28)
    assert data.train_images[:, 0, 0, 0].tolist()[:6] == [0, 10, 20, 1, 11, 21]
    assert data.test_labels.tolist() == list(range(10))
    assert data.class_names[:2] == ("T-shirt/top", "Trouser")
    assert load(FashionMnist, root=fashion).counts == tuple(exponential_counts(10, 3, 100))
    assert capfd.readouterr() == ("", "")


class Downloaded:
    """A data set of torchvision's kind, which is not there until it has been downloaded."""

    at_work, downloads, clashes = [], [], []

    def __init__(self, root, train, download):
        there = Path(root) / f"there-{train}"
        if download:
            self.downloads.append(train)
            self.clashes += self.at_work
            self.at_work.append(train)
            time.sleep(0.1)
            self.at_work.remove(train)
            there.write_text("")
        if not there.exists():
            raise RuntimeError("Dataset not found")
        self.data, self.targets = np.zeros((30, 4, 4, 3), np.uint8), [n % 10 for n in range(30)]


def test_two_processes_download_a_set_once(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10", Downloaded)
    with ThreadPoolExecutor(2) as threads:  # a lock keeps threads apart as it does processes
        loads = [threads.submit(load, Cifar10, root=tmp_path, n_max=3) for _ in range(2)]
        assert [done.result().counts for done in loads] == [loads[0].result().counts] * 2
    assert Downloaded.clashes == []
    assert sorted(Downloaded.downloads) == [False, True]


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("keep", [0, 3, 10, -5])
def test_damaged_idx_files_are_refused(fashion, no_network, name, keep):
    path = fashion / "FashionMNIST" / "raw" / name
    path.write_bytes(path.read_bytes()[:keep])
    assert refusal(FashionMnist, root=fashion).startswith(f"FashionMNIST under {fashion} is missing or damaged")


def test_idx_files_of_an_unknown_type_are_refused(fashion, no_network):
    path = fashion / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(b"\0\0\x0a\3" + path.read_bytes()[4:])  # 8 is uint8 and 9 is int8, but nothing is 10
    assert refusal(FashionMnist, root=fashion).startswith(f"FashionMNIST under {fashion} is missing or damaged")


def test_images_and_labels_must_be_equally_many(fashion):
    write_idx(fashion / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte", np.arange(20) % 10)
    assert refusal(FashionMnist, root=fashion) == f"{fashion}: 30 images but 20 labels: replace the damaged files."


def write_folder(root, train, test, classes=10, side=8):
    for part, n in (("train", train), ("test", test)):
        for label in range(classes):
            folder = root / part / f"class {label}"
            folder.mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (side, side), (label * 20, i, 0)).save(folder / f"{i:04}.png")
    return root


def test_a_root_of_image_folders_is_cut_to_the_sources_profile(tmp_path):
    data = load(Cifar10, root=write_folder(tmp_path, 20, 2), n_max=20)
    assert data.counts == tuple(exponential_counts(10, 20, 100)) == (20, 11, 7, 4, 2, 1, 1, 1, 1, 1)
    assert data.image_shape == (3, 8, 8)
    assert len(data.test_labels) == 20
    assert load(Cifar10, root=tmp_path, image_size=6, n_max=20).image_shape == (3, 6, 6)
    for source, n_max in ((Cifar10, 5000), (Cifar10Thousand, 1000), (Cifar100, 500)):
        assert refusal(source, root=tmp_path) == (  # an incomplete folder must not become another benchmark
            f"class 'class 0' has 20 training images but its place in the profile asks for {n_max}: "
            'use a smaller n_max=, another order=, or data={"imbalance": "natural"}.'
        )
    assert load(Cifar10Thousand, root=tmp_path, n_max=20).counts == data.counts


def test_the_same_folder_gives_the_same_images_under_each_name(tmp_path):
    write_folder(tmp_path, 20, 1, classes=3)
    first, second = (load(source, root=tmp_path, n_max=20) for source in (Cifar10, Cifar100))
    assert torch.equal(first.train_images, second.train_images)


@pytest.mark.skipif(not CIFAR10_ZIP.is_file(), reason="needs ../shared/data/cifar10.zip")
def test_cifar10_lt_1k_on_the_real_images(tmp_path):
    counts = exponential_counts(10, 1000, 100)
    with zipfile.ZipFile(CIFAR10_ZIP) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        classes = sorted({name.split("/")[2] for name in names})
        wanted = {f"cifar10/train/{name}/": count for name, count in zip(classes, counts, strict=True)}
        wanted |= {f"cifar10/test/{name}/": 10 for name in classes}
        for folder, count in wanted.items():
            archive.extractall(tmp_path, [name for name in names if name.startswith(folder)][:count])
    data = load(Cifar10Thousand, root=tmp_path / "cifar10")
    assert list(data.counts) == counts
    assert (len(data.train_images), data.imbalance, data.image_shape) == (2478, 100, (3, 32, 32))
    assert data.class_names[0] == "airplane"
    # More than half of these are airplanes, which are brighter than CIFAR-10's (0.491, 0.482, 0.447).
    assert np.allclose(data.normalisation.mean, (0.5, 0.5, 0.5), atol=0.06)
