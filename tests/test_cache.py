"""Decoded images that are kept on the disk: files are decoded once, whatever happens meanwhile."""

import json
import os
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image

from ltdd_core import InputError
from ltdd_core.data import cache, imagefile, reading
from ltdd_core.data.cache import cached_images, image_cache, through_cache
from ltdd_core.data.encoded import EncodedImages
from ltdd_core.data.filetable import FileTable
from ltdd_core.data.folder import ImageFolder
from ltdd_core.data.load import load_long_tailed
from ltdd_core.progress import Display
from ltdd_core.storage import load_tensors, save_bytes_in_parts, save_tensors


class Hearing(Display):
    def __init__(self):
        self.notes, self.advice, self.read = [], [], []

    def note(self, text):
        self.notes.append(text)

    def advise(self, text):
        self.advice.append(text)

    @contextmanager
    def work(self, what, total, unit, done=0, of=""):
        self.read.append(what)
        yield lambda done: None


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache folder of the test, and no set too small for it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "LEAST", 1)


@pytest.fixture
def decoded(monkeypatch):
    """The files that are decoded."""
    names = []
    monkeypatch.setattr(
        "ltdd_core.data.filetable.decode",
        lambda path, *how: names.append(str(path)) or imagefile.decode(path, *how),
    )
    return names


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for part, each in (("train", 5), ("test", 2)):
        for name in ("a", "b"):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for number in range(each):
                write(tmp_path / "data" / part / name / f"{number}.png", random)
    return tmp_path / "data"


def write(path, random):
    Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


def load(root, display=None, **options):
    return load_long_tailed("folder", ImageFolder(ImageFolder.Options(root=root, **options)), display)


def test_files_are_decoded_once_and_give_the_same_set(folder, decoded, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(cache, "LEAST", 10**9)
        plain = load(folder)
    assert not cached_images()
    decoded.clear()
    first, said = Hearing(), Hearing()
    made = load(folder, first)
    assert len(set(decoded)) == 14
    (note,) = first.notes
    assert note.startswith(f"data: the decoded images are kept in {image_cache()}, 10.8 kB, so that")
    decoded.clear()
    again = load(folder, said)
    assert len(set(decoded)) == 2  # the first of each part, for its shape
    assert said.notes == said.read == []
    for other in (made, again):
        assert other.digest == plain.digest
        assert other.test_digest == plain.test_digest
        assert other.normalisation == plain.normalisation
        assert torch.equal(other.train_images, plain.train_images)


def test_a_copy_elsewhere_with_the_same_times_is_not_decoded_again(folder, decoded, tmp_path):
    load(folder)
    folder.rename(tmp_path / "moved")
    decoded.clear()
    load(tmp_path / "moved")
    assert len(set(decoded)) == 2


@pytest.mark.parametrize("change", ["pixels", "time", "name", "size"])
def test_what_changes_is_decoded_anew(folder, decoded, change):
    load(folder)
    decoded.clear()
    path, options = folder / "train" / "a" / "0.png", {}
    if change == "pixels":
        write(path, np.random.default_rng(1))
    elif change == "time":
        os.utime(path, ns=(1, 1))
    elif change == "name":
        path.rename(path.with_name("00.png"))
    else:
        options = {"image_size": 8}
    changed = load(folder, **options)
    assert len([name for name in set(decoded) if "train" in name]) == 10
    assert torch.equal(changed.train_images[0], pixels_of(sorted((folder / "train" / "a").iterdir())[0], **options))


def pixels_of(path, image_size=16):
    array = np.array(Image.open(path).resize((image_size, image_size), Image.Resampling.BILINEAR))
    return torch.from_numpy(array).permute(2, 0, 1)


def test_who_writes_into_the_images_writes_into_memory(folder, decoded):
    first = load(folder)
    before = first.digest
    first.train_images[:] = 0  # in the memory of this process alone
    decoded.clear()
    assert load(folder).digest == before
    assert len(set(decoded)) == 2


@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_a_damaged_file_of_the_cache_is_made_again(folder, damage):
    before = load(folder).digest
    for entry in cached_images():
        if damage == "cut":
            os.truncate(entry.path, entry.size - 1)
        elif damage == "empty":
            entry.path.write_bytes(b"")
        else:
            save_tensors(entry.path, {"images": torch.zeros(2)}, {"name": "mine"})
    again = load(folder)
    assert again.digest == before
    assert [entry.shape[1:] for entry in cached_images()] == [(3, 16, 16)] * 2


def test_a_full_disk_means_memory(folder, monkeypatch):
    display = Hearing()
    monkeypatch.setattr(reading, "room", lambda folder: 9_999)
    data = load(folder, display)
    assert not cached_images()
    assert display.advice[0] == (
        f"data: the decoded images take 10.8 kB, and the disk of {image_cache()} has 10.0 kB free, so they are decoded "
        "at each start. The environment variable XDG_CACHE_HOME names another folder."
    )
    monkeypatch.undo()
    assert load(folder).digest == data.digest


def test_a_cache_that_cannot_be_written_means_memory(folder, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    display = Hearing()
    assert len(load(folder, display).train_labels) == 10
    assert [text for text in display.advice if "cannot write" in text and "decoded at each start" in text]


def test_images_that_are_read_from_the_disk_need_no_memory(folder, monkeypatch):
    monkeypatch.setattr("ltdd_core.data.memory.memory_of_machine", lambda: 1000)
    assert len(load(folder).train_labels) == 10
    monkeypatch.setattr(reading, "room", lambda folder: 0)
    with pytest.raises(InputError, match=r"need 4\.3e-05 GB of memory in the size 32x32"):
        load(folder, image_size=32)


def test_what_a_killed_process_left_goes(tmp_path):
    path = tmp_path / "images" / "k.safetensors"
    path.parent.mkdir()
    left = path.with_name(f".{path.name}.0000.tmp")
    left.write_bytes(b"half")
    images = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2)
    assert torch.equal(through_cache(path, "x", images.shape, lambda: iter(images.split(1))), images)
    assert not left.exists()


def test_of_two_that_start_at_once_one_decodes(tmp_path):
    path, begun, images = tmp_path / "images" / "k.safetensors", [], torch.zeros(2, 3, 2, 2, dtype=torch.uint8)
    second_waits = threading.Event()

    def parts():
        begun.append(1)
        second_waits.wait(0.2)
        yield images

    found = []
    threads = [
        threading.Thread(target=lambda: found.append(through_cache(path, "x", images.shape, parts))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(begun) == 1
    assert len(found) == 3


def test_decoding_that_fails_leaves_nothing(folder):
    path = folder / "train" / "b" / "3.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"3\.png: this image is damaged"):
        load(folder)
    assert not [entry for entry in cached_images() if "training" in entry.name]
    assert not list(image_cache().glob(".*"))


def test_damage_is_looked_for_once(folder, decoded):
    path = folder / "train" / "b" / "3.png"
    path.write_bytes(path.read_bytes()[:200])
    first = load(folder, skip_bad=True)
    decoded.clear()
    again = load(folder, skip_bad=True)
    assert len(set(decoded)) == 2
    assert again.left_out == first.left_out
    assert again.left_out[0].startswith(f"{path}: this image is damaged")
    assert again.digest == first.digest


def test_a_file_that_could_not_be_read_is_tried_again(folder, monkeypatch):
    path = folder / "train" / "b" / "3.png"

    def denied(file, *how):
        if file == path:
            raise InputError(f"{file}: cannot be read: Permission denied.") from PermissionError(
                13, "Permission denied"
            )
        return imagefile.read_header(file, *how)

    with monkeypatch.context() as patch:
        patch.setattr("ltdd_core.data.filetable.read_header", denied)
        assert len(load(folder, skip_bad=True).train_labels) == 9
    assert len(load(folder, skip_bad=True).train_labels) == 10


def test_images_of_a_table_are_known_by_their_bytes(folder):
    contents = [path.read_bytes() for path in sorted((folder / "train").rglob("*.png"))]

    def table(contents):
        part = EncodedImages(torch.zeros(len(contents), dtype=torch.int64), lambda i: contents[i], "image {}".format)
        files = tuple(part.image(index) for index in range(len(contents)))
        return FileTable(files, part.labels, 16, False, None, "")

    every = torch.arange(10)
    key = table(contents).kept_as(every)
    assert key == table(contents).kept_as(every)
    assert key != table(contents).kept_as(every.flip(0))
    assert key != table([*contents[1:], contents[0]]).kept_as(every)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(1, 3))
def test_a_tensor_in_parts_is_the_tensor(tmp_path_factory, sizes, channels):
    parts = [torch.randint(0, 256, (size, channels, 2, 3), dtype=torch.uint8) for size in sizes]
    path, whole = tmp_path_factory.mktemp("parts") / "x.safetensors", torch.cat(parts)
    save_bytes_in_parts(path, "images", whole.shape, parts, {"name": "ä"})
    tensors, facts = load_tensors(path)
    assert torch.equal(tensors["images"], whole)
    assert facts == {"name": "ä"}
    if len(whole):
        with pytest.raises(ValueError, match="do not make a tensor"):
            save_bytes_in_parts(path, "images", whole.shape, parts[:-1] if sizes[-1] else [], {})
        assert torch.equal(load_tensors(path)[0]["images"], whole)


# ---- the commands --------------------------------------------------------------------------------


def answer(ltdd, *arguments):
    result = ltdd("data", "cache", *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_cache_is_listed_and_removed(folder, ltdd):
    assert answer(ltdd, "list") == f"no decoded images are kept in {image_cache()}\n"
    load(folder)
    listed = json.loads(answer(ltdd, "list", "--json"))
    assert {entry["images"]: entry["shape"] for entry in listed} == {
        "data, training": [10, 3, 16, 16],
        "data, test": [4, 3, 16, 16],
    }
    shown = answer(ltdd, "list")
    assert all(entry["key"] in shown for entry in listed)
    keys = [entry["key"] for entry in listed]
    assert answer(ltdd, "remove", keys[0][:9]) == f"1 removed, {listed[0]['bytes'] / 1000:.1f} kB free again\n"
    assert [entry.path.stem for entry in cached_images()] == [keys[1]]
    assert answer(ltdd, "remove", "--all").startswith("1 removed")
    assert not list(image_cache().glob("*.safetensors"))
    assert not list(image_cache().glob("*.json"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give the keys of what is to be removed, or --all"),
        (["--all", "x"], "give the keys of what is to be removed, or --all"),
        (["nothing"], "'nothing': no key begins like this"),
        ([""], "'': 2 keys begin like this"),
    ],
)
def test_a_wrong_key_is_refused(folder, ltdd, arguments, said):
    load(folder)
    result = ltdd("data", "cache", "remove", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert len(cached_images()) == 2
