"""Distilled sets and checkpoints on disk: the same bytes, atomic, and one line for whatever is wrong."""

import csv
import errno
import io
import itertools
import json
import math
import os
import stat
import struct
import subprocess
import sys
import tempfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.torch import save as safetensors_bytes, save_file

from ltdd_core import DistilledSet, InputError, PerChannel, SoftLabels, load_distilled, save_distilled
from ltdd_core.storage import csv_text, load_tensors, save_tensors, text_of_csv, write_atomically

UNPRIVILEGED = 65534


def distilled(classes=3, ipc=2, channels=1):
    return DistilledSet(
        images=torch.randn(classes * ipc, channels, 4, 5),
        labels=torch.arange(classes).repeat_interleave(ipc),
        class_names=tuple(f"klasse {i} ü" for i in range(classes)),
        normalisation=PerChannel((0.5,) * channels, (0.25,) * channels),
        ipc=ipc,
        origin={"configuration": {"ipc": ipc}},
    )


RECIPE = {"epochs": 30, "optimizer": "adamw", "lr": 0.001, "cutmix": 1.0, "soft_loss": "mse", "hard_weight": 0.025}
DECODER = {"name": "tiled", "factor": 2, "inner": {"sides": [1, 2]}}


@given(
    st.integers(2, 5),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([None, "probabilities", "logits"]),
    st.sampled_from([{}, {"lr": 0.5}, RECIPE]),
    st.sampled_from([None, {"name": "plain"}, DECODER]),
)
@settings(max_examples=40, deadline=None)
def test_a_distilled_set_survives_the_round_trip(tmp_path_factory, classes, ipc, channels, kind, recipe, decoder):
    path = tmp_path_factory.mktemp("set") / "distilled.safetensors"
    before = replace(distilled(classes, ipc, channels), recipe=recipe, decoder=decoder)
    if kind is not None:
        said = torch.randn(classes * ipc, classes)
        said = said.softmax(1) if kind == "probabilities" else said
        before = replace(before, labels=before.labels.flip(0), soft_labels=SoftLabels(said, kind))
    save_distilled(path, before)
    after = load_distilled(path)
    assert torch.equal(before.images, after.images)
    assert torch.equal(before.labels, after.labels)
    if kind is not None:
        assert after.soft_labels.kind == kind
        assert torch.equal(before.soft_labels.values, after.soft_labels.values)
    same = {"images": before.images, "labels": before.labels, "soft_labels": before.soft_labels}
    assert replace(after, **same) == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def version_1(path, labels, **facts):
    """A file as the first version of the format had it, written out."""
    images = torch.arange(48, dtype=torch.float32).view(4, 1, 3, 4)
    metadata = {
        "format": "ltdd-distilled",
        "format_version": 1,
        "class_names": ["a", "b", "c"],
        "normalisation": {"kind": "per-channel", "mean": [0.5], "std": [0.25]},
        "training": {},
        "ipc": 2,
        "decoder": None,
        "origin": {"configuration": {"ipc": 2}},
        **facts,
    }
    save_file({"images": images, "labels": labels}, path, {key: json.dumps(value) for key, value in metadata.items()})
    return images


def test_a_file_of_version_1_with_classes_is_read(tmp_path):
    labels = torch.tensor([0, 0, 2, 1])
    images = version_1(tmp_path / "old", labels, training={"lr": 0.013}, decoder="tiles")
    found = load_distilled(tmp_path / "old")
    assert torch.equal(found.images, images)
    assert torch.equal(found.labels, labels)
    assert found.soft_labels is None
    assert (found.class_names, found.ipc, found.origin) == (("a", "b", "c"), 2, {"configuration": {"ipc": 2}})
    assert (found.recipe, found.decoder) == ({"lr": 0.013}, {"name": "tiles"})
    assert found.normalisation == PerChannel((0.5,), (0.25,))


def test_a_soft_label_of_version_1_is_of_its_likeliest_class(tmp_path):
    soft = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.25, 0.5, 0.25], [1.0, 0.0, 0.0]])
    version_1(tmp_path / "old", soft)
    found = load_distilled(tmp_path / "old")
    assert found.labels.tolist() == [0, 2, 1, 0]
    assert found.soft_labels.kind == "probabilities"
    assert torch.equal(found.soft_labels.values, soft)
    assert (found.recipe, found.decoder) == ({}, None)


@pytest.mark.parametrize(
    ("labels", "facts", "message"),
    [
        (torch.zeros(4, 3), {}, "soft labels must be probabilities"),
        (torch.zeros(4, 2), {}, r"soft labels must be finite float32 \[n, 3\]"),
        (torch.zeros(3, dtype=torch.int64), {}, "labels must be int64"),
        (torch.zeros(4), {}, "labels must be int64"),
        (torch.tensor([0, 1, 2, 0]), {"training": {"lr": -1}}, "recipe.lr must be above 0"),
        (torch.tensor([0, 1, 2, 0]), {"training": {"rate": 1}}, "unknown recipe option 'rate'"),
        (torch.tensor([0, 1, 2, 0]), {"decoder": 5}, "decoder must be a mapping"),
    ],
)
def test_a_damaged_file_of_version_1_is_refused_in_one_line(tmp_path, labels, facts, message):
    version_1(tmp_path / "old", labels, **facts)
    with pytest.raises(InputError, match=message) as caught:
        load_distilled(tmp_path / "old")
    assert "\n" not in str(caught.value)


def test_the_same_set_gives_the_same_bytes_in_every_process(tmp_path):
    one = distilled()
    contents = set()
    for index in range(8):  # the safetensors library orders metadata differently from call to call
        save_distilled(tmp_path / f"{index}", one)
        contents.add((tmp_path / f"{index}").read_bytes())
    assert len(contents) == 1


def test_a_run_folder_stands_for_its_file(tmp_path):
    save_distilled(tmp_path / "distilled.safetensors", distilled())
    assert load_distilled(tmp_path).ipc == 2
    with pytest.raises(InputError, match=r"no distilled\.safetensors in this folder; did the run finish"):
        load_distilled(tmp_path.parent)
    with pytest.raises(InputError, match="there is no such file"):
        load_distilled(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    "content",
    [b"", b"hello, this is no tensor file", struct.pack("<Q", 2**40) + b"{}", struct.pack("<Q", 2) + b"[]"],
)
def test_damaged_files_are_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged, or not a safetensors file"):
        load_distilled(path)


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_distilled(path, distilled())
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="damaged"):
            load_distilled(path)


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(InputError, match="not a distilled set of ltdd"):
        load_distilled(path)
    save_file({"weight": torch.zeros(3)}, path, {"format": "pt"})
    with pytest.raises(InputError, match="not written by ltdd"):
        load_distilled(path)
    save_tensors(path, {"images": torch.zeros(1)}, {"format": "ltdd-distilled", "format_version": 99})
    with pytest.raises(InputError, match="format version 99; this ltdd reads 1"):
        load_distilled(path)
    save_tensors(path, {"images": torch.zeros(1)}, {"format": "ltdd-distilled", "format_version": 1})
    with pytest.raises(InputError, match="class_names: Field required"):
        load_distilled(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.full((6, 1, 4, 5), torch.nan)}, "finite float32"),
        ({"images": torch.zeros(6, 1, 4, 5, dtype=torch.float64)}, "finite float32"),
        ({"labels": torch.arange(6)}, "not one of the 3 classes"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, "labels must be"),
        ({"labels": torch.zeros(6, 2)}, "labels must be"),
        ({"labels": torch.zeros(6, 3).softmax(1)}, "labels must be"),
        ({"soft_labels": SoftLabels(torch.zeros(6, 2).softmax(1))}, r"soft labels must be finite float32 \[n, 3\]"),
        ({"soft_labels": SoftLabels(torch.zeros(5, 3).softmax(1))}, r"soft labels must be finite float32 \[n, 3\]"),
        ({"soft_labels": SoftLabels(torch.zeros(6, 3).softmax(1).double())}, "soft labels must be finite float32"),
        ({"soft_labels": SoftLabels(torch.full((6, 3), torch.nan))}, "soft labels must be finite float32"),
        ({"soft_labels": SoftLabels(torch.full((6, 3), torch.inf), "logits")}, "soft labels must be finite float32"),
        ({"soft_labels": SoftLabels(torch.tensor([[1.5, -0.5, 0.0]] * 6))}, "soft labels must be probabilities"),
        ({"soft_labels": SoftLabels(torch.full((6, 3), 0.3))}, "soft labels must be probabilities, which sum to 1"),
        ({"recipe": {"cutmixx": 1.0}}, "unknown recipe option 'cutmixx'. Did you mean 'cutmix'"),
        ({"recipe": {"optimizer": "lion"}}, "recipe.optimizer must be 'sgd' or 'adamw', not 'lion'"),
        ({"decoder": {"factor": 2}}, "the decoder has no name"),
        ({"decoder": {"name": 3}}, "the decoder has no name"),
        ({"normalisation": PerChannel((0.5, 0.5), (1.0, 1.0))}, "normalisation is not for 1 channels"),
    ],
)
def test_sets_that_do_not_fit_together_are_refused(tmp_path, change, message):
    path = tmp_path / "x.safetensors"
    save_distilled(path, replace(distilled(), **change))
    with pytest.raises(InputError, match=message):
        load_distilled(path)


def edited(path, target, **metadata):
    """The same file with other metadata, which are texts."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] |= metadata
    text = json.dumps(header).encode()
    target.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    return target


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ipc", "-1", "ipc must be at least 1, not -1"),
        ("ipc", "Infinity", "not written by ltdd"),
        ("ipc", "true", "ipc must be a whole number"),
        ("ipc", "2.5", "ipc must be a whole number"),
        ("ipc", "9" * 4000, "ipc must be at most 1000000000, not 9"),
        ("ipc", "9" * 5000, "not written by ltdd"),
        ("recipe", '{"lr": NaN}', "not written by ltdd"),
        ("recipe", '{"lr": 1e999}', "not written by ltdd"),
        ("recipe", '{"lr": -1}', "recipe.lr must be above 0"),
        ("recipe", '{"lr": 1' + "0" * 400 + "}", "recipe"),
        ("recipe", '{"zzz": 1}', "unknown recipe option 'zzz'"),
        ("recipe", "[]", "recipe must be a mapping"),
        ("recipe", '{"warmup": 400}', "recipe: warmup takes 400 of 300 epochs"),
        ("soft_labels", '"percentages"', "soft_labels must be 'probabilities' or 'logits'"),
        ("soft_labels", '"logits"', "the tensor 'soft_labels' is missing"),
        ("normalisation", '{"kind": "per-channel", "mean": [Infinity], "std": [1]}', "not written by ltdd"),
        ("normalisation", '{"kind": "per-channel", "mean": [0.5], "std": [-1]}', r"normalisation\.std"),
        ("normalisation", "[]", "normalisation must be a mapping"),
        ("class_names", "[0, 1, 2]", "class_names must be text"),
        ("class_names", '"abc"', "class_names must be a list"),
        ("class_names", '["a", "a", "b"]', "two classes have the same name"),
        ("class_names", '["a", "b", "\\ud800"]', "class_names"),
        ("class_names", "[]", "class_names"),
        ("decoder", "5", "decoder must be a mapping"),
        ("decoder", '"tiles"', "decoder must be a mapping"),
        ("origin", "[]", "origin must be a mapping"),
        ("origin", "[" * 100_000, "not written by ltdd"),
        ("format_version", "9" * 4000, "format version 999"),
    ],
)
def test_metadata_that_cannot_be_are_refused_in_one_line(tmp_path, key, value, message):
    save_distilled(tmp_path / "whole", distilled())
    with pytest.raises(InputError, match=message) as caught:
        load_distilled(edited(tmp_path / "whole", tmp_path / "x.safetensors", **{key: value}))
    assert str(caught.value).startswith(f"{tmp_path / 'x.safetensors'}: ")
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_labels_without_a_dimension_and_images_of_no_size_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    for change in (
        {"labels": torch.tensor(0)},
        {"images": torch.zeros(6, 0, 4, 5)},
        {"images": torch.zeros(6, 1, 0, 5)},
    ):
        save_distilled(path, replace(distilled(), **change))
        with pytest.raises(InputError, match=r"labels must be|holds no images"):
            load_distilled(path)


def test_a_flipped_bit_of_a_pixel_is_seen(tmp_path):
    path = tmp_path / "x.safetensors"
    save_distilled(path, distilled())
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="its tensors are not those that were written"):
        load_distilled(path)


def test_a_set_of_an_earlier_version_which_has_no_digest_is_read(tmp_path):
    save_distilled(tmp_path / "new", distilled())
    tensors, facts = load_tensors(tmp_path / "new")
    del facts["digest"]
    save_tensors(tmp_path / "old", tensors, facts)
    assert torch.equal(load_distilled(tmp_path / "old").images, tensors["images"])


def test_names_that_no_file_has_are_one_line(tmp_path):
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(InputError):
            load_distilled(tmp_path / name)


def test_facts_that_json_does_not_have_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        save_tensors(tmp_path / "x", {}, {"a": float("nan")})


@pytest.mark.parametrize("facts", [{}, {"b": 1, "a": "ü"}])
def test_a_file_has_the_bytes_of_the_library_with_a_sorted_header_and_is_written_without_a_copy(tmp_path, facts):
    dtypes = (torch.uint8, torch.float32, torch.bool, torch.float64, torch.int16, torch.bfloat16, torch.int64)
    tensors = {f"{place}: é": torch.arange(12).view(3, 4).T.to(dtype) for place, dtype in enumerate(dtypes)}
    tensors |= {"large": torch.rand(2**20), "none": torch.empty(0, 3), "number": torch.tensor(2.5)}
    tracemalloc.start()
    save_tensors(tmp_path / "x", tensors, facts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20 < tensors["large"].nbytes
    written = (tmp_path / "x").read_bytes()
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    library = safetensors_bytes(contiguous, {name: json.dumps(value) for name, value in facts.items()})
    (length, header), (of_library, expected) = (
        (length := int.from_bytes(content[:8], "little"), json.loads(content[8 : 8 + length]))
        for content in (written, library)
    )
    assert header == expected
    assert list(header) == sorted(header)
    assert written[8 + length :] == library[8 + of_library :]
    assert torch.equal(load_tensors(tmp_path / "x")[0]["0: é"], contiguous["0: é"])


def test_metadata_are_json_a_stranger_can_read(tmp_path):
    path = tmp_path / "x.safetensors"
    save_distilled(path, distilled())
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    names = json.loads(header["__metadata__"]["class_names"])
    assert names[0] == "klasse 0 ü"
    tensors, facts = load_tensors(path)
    assert set(tensors) == {"images", "labels"}
    assert facts["normalisation"] == {"kind": "per-channel", "mean": [0.5], "std": [0.25]}


@given(
    st.lists(
        st.lists(st.text(st.sampled_from("'=+-@\t\r\n,;\"1.e猫 "), max_size=6), min_size=2, max_size=3), max_size=3
    )
)
def test_no_cell_of_a_table_is_a_formula_and_all_texts_come_back(rows):
    cells = list(csv.reader(io.StringIO(csv_text(rows), newline="")))
    assert [[text_of_csv(cell) for cell in row] for row in cells] == rows
    for cell in itertools.chain(*cells):
        if cell.startswith(("=", "+", "-", "@", "\t", "\r")):
            assert math.isfinite(float(cell))  # a negative number


def test_numbers_stay_numbers_in_a_table():
    assert csv_text([["-1", "-2.5e-3", -4, None, 0.5], ["-1+1", "+1", "it's", "'", ""]]) == (
        "-1,-2.5e-3,-4,,0.5\n'-1+1,'+1,it's,',\n"
    )


def test_two_processes_write_one_file_and_a_reader_sees_whole_ones(tmp_path):
    program = (
        "import sys; from pathlib import Path; from ltdd_core.storage import write_atomically\n"
        "for _ in range(100): write_atomically(Path(sys.argv[1]), sys.argv[2].encode() * 200000)\n"
    )
    path = tmp_path / "table.md"
    writers = [subprocess.Popen([sys.executable, "-c", program, str(path), letter]) for letter in "ab"]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            content = path.read_bytes()
            assert content in (b"a" * 200_000, b"b" * 200_000)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [file.name for file in tmp_path.iterdir()] == ["table.md"]


def test_a_file_has_the_mode_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_a_folder_saves_all_the_same(tmp_path, monkeypatch, number):
    sync = os.fsync

    def refusing(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        sync(handle)

    monkeypatch.setattr(os, "fsync", refusing)
    write_atomically(tmp_path / "file", b"x")
    assert (tmp_path / "file").read_bytes() == b"x"


def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path):
    """A file-size limit makes the kernel refuse the bytes halfway, as a full disk does."""
    path = tmp_path / "file"
    path.write_bytes(b"before")
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from ltdd_core import InputError; from ltdd_core.storage import write_atomically\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: write_atomically(Path(sys.argv[1]), b'x' * 100000)\n"
        "except InputError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == f"cannot write {path}: File too large."
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_is_really_full(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs privileges")
    try:
        with pytest.raises(InputError, match="No space left on device"):
            write_atomically(tmp_path / "file", b"x" * 200_000)
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_folder_without_permission_is_one_line():
    with tempfile.TemporaryDirectory() as place:  # not tmp_path: nobody else may enter that
        closed = Path(place)
        closed.chmod(0o555)
        privileged = os.geteuid() == 0
        if privileged:
            os.seteuid(UNPRIVILEGED)
        try:
            with pytest.raises(InputError, match="Permission denied"):
                write_atomically(closed / "file", b"x")
        finally:
            if privileged:
                os.seteuid(0)
