"""Data sets of Hugging Face: folders of save_to_disk, parquet files, images, and the hub, with the real library."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, one_line_error
from PIL import Image

from ltdd_core import InputError, load_data
from ltdd_core.testing import check_data
from ltdd_huggingface.source import HuggingFace

HERE = importlib.util.find_spec("datasets") is not None
needs_datasets = pytest.mark.skipif(not HERE, reason="datasets, the library of Hugging Face, is not installed")


def pixels(number, side=8):
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8))


def split(labels, start=0, names=("cat", "dog", "owl"), **more):
    """Images with labels of declared classes; ``more`` are further columns and their types."""
    from datasets import ClassLabel, Dataset, Features, Image as Images

    features = {"image": Images(), "label": ClassLabel(names=list(names)) if names else None}
    columns = {"image": [pixels(start + index) for index in range(len(labels))], "label": labels}
    for name, (values, feature) in more.items():
        columns[name], features[name] = values, feature
    given = None if not names else Features(features)
    return (
        Dataset.from_dict(columns, features=given)
        if given
        else Dataset.from_dict(columns).cast_column("image", Images())
    )


def saved(folder, **splits):
    from datasets import DatasetDict

    DatasetDict(splits).save_to_disk(str(folder))
    return folder


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """What the library keeps, in a folder of its own."""
    if not HERE:
        yield
        return
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def load(place, **options):
    return load_data("hf", root=str(place), **options)


def refusal(place, **options):
    with pytest.raises(InputError) as caught:
        load(place, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- what is read --------------------------------------------------------------------------------


@needs_datasets
def test_a_saved_data_set_with_three_splits(tmp_path):
    train, val, test = split([0, 1, 2, 2]), split([1], 10), split([0, 2], 20)
    data = load(saved(tmp_path / "animals", train=train, validation=val, test=test))
    assert (data.name, data.class_names, data.counts) == ("animals", ("cat", "dog", "owl"), (1, 1, 2))
    assert (data.validation_labels.tolist(), data.test_labels.tolist()) == ([1], [0, 2])
    for images, start in ((data.train_images, 0), (data.validation_images, 10), (data.test_images, 20)):
        expected = [np.asarray(pixels(start + index)) for index in range(len(images))]
        assert torch.equal(images, torch.from_numpy(np.stack(expected)).permute(0, 3, 1, 2))
    assert "column 'image' has the images, and column 'label' the classes." in data.advice
    check_data(HuggingFace, root=str(tmp_path / "animals"))


@needs_datasets
def test_one_split_from_disk_parquet_and_arrow(tmp_path):
    whole = split([0, 1] * 6)
    whole.save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "parquet").mkdir()
    whole.to_parquet(str(tmp_path / "parquet" / "some.parquet"))
    both = [load(tmp_path / name) for name in ("saved", "parquet")]
    for data in both:
        assert (data.class_names, data.counts, data.test_counts) == (("cat", "dog"), (3, 3), (3, 3))
        assert "1 class that has no image left out: 'owl'." in data.advice
    assert both[0].digest == both[1].digest


@needs_datasets
def test_a_folder_of_images_is_read_as_the_library_reads_it(tmp_path):
    for part, count in (("train", 3), ("validation", 2)):
        for label, name in enumerate(("b", "a")):
            (tmp_path / "own" / part / name).mkdir(parents=True)
            for index in range(count):
                pixels(10 * label + index, 9).save(tmp_path / "own" / part / name / f"{index}.png")
    data = load(tmp_path / "own", image_size=6)
    assert (data.class_names, data.counts, data.test_counts) == (("a", "b"), (3, 3), (2, 2))
    assert (data.image_shape, data.resized) == ((3, 6, 6), "9x9 -> 6x6")
    assert "split 'validation' is the test part, since there is no other." in data.advice
    assert any(sentence.startswith("A folder of images is read with") for sentence in data.advice)
    (tmp_path / "flat").mkdir()
    pixels(0).save(tmp_path / "flat" / "0.png")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read.me").write_text("")
    for name in ("flat", "notes"):
        assert "A folder of images is read with" in refusal(tmp_path / name)
    data = load(tmp_path / "own", val="validation")
    assert (data.counts, data.validation_counts, data.test_counts) == ((2, 2), (2, 2), (1, 1))


@needs_datasets
@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["owl", "cat", "ape"], ("ape", "cat", "owl")),
        (["10", "9", "2"], ("2", "9", "10")),
        ([7, 3, 11], ("3", "7", "11")),
    ],
)
def test_classes_that_are_not_declared_are_sorted(tmp_path, labels, names):
    data = load(saved(tmp_path / "x", train=split(labels, names=None), test=split(labels, 9, names=None)))
    assert data.class_names == names
    found = [data.class_names[label] for label in data.test_labels]
    assert found == [str(label) for label in labels]


@needs_datasets
def test_a_table_that_another_program_wrote(tmp_path):
    import io

    import pyarrow
    from pyarrow import parquet

    rows = []
    for number in range(4):
        content = io.BytesIO()
        pixels(number).convert("L").save(content, "png")
        rows.append({"bytes": content.getvalue(), "path": None})
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    columns = {"photo": pyarrow.array(rows, kind), "kind": ["x", "y"] * 2, "id": list("abcd")}
    (tmp_path / "own").mkdir()
    parquet.write_table(pyarrow.table(columns), tmp_path / "own" / "train-0.parquet")
    data = load(tmp_path / "own", label_column="kind")
    assert (data.class_names, data.image_shape, data.found) == (("x", "y"), (1, 8, 8), (2, 2))
    assert "'kind', 'id' have classes: say which column with data={\"label_column\": NAME}." in refusal(
        tmp_path / "own"
    )


@needs_datasets
def test_which_column_and_which_split_can_be_said(tmp_path):
    from datasets import ClassLabel

    fine = ClassLabel(names=["a", "b", "c", "d"])
    coarse = ClassLabel(names=["ab", "cd"])
    one = split([0, 1], names=("u", "v"), fine=([0, 3], fine), coarse=([0, 1], coarse)).remove_columns("label")
    place = saved(tmp_path / "x", learn=one, check=one, more=one)
    said = f"{place}: none of its splits is called 'train': say which with"

    assert refusal(place) == f'{said} data={{"train": NAME}}. They are learn, check, more.'
    assert "'fine', 'coarse' have classes" in refusal(place, train="learn")
    data = load(place, train="learn", test="check", label_column="coarse")
    assert data.class_names == ("ab", "cd")
    assert "split 'more' is not used." in data.advice
    assert "Did you mean 'check'" in refusal(place, train="learn", test="chek")
    assert "split 'learn' cannot be two parts" in refusal(place, train="learn", test="learn")


@needs_datasets
def test_the_images_of_a_group_stay_together(tmp_path):
    from datasets import Value

    labels = [0, 1, 2] * 8
    patients = [index // 6 for index in range(24)]
    place = saved(tmp_path / "clinic", train=split(labels, patient=(patients, Value("int64"))))
    data = load(place, group_column="patient", validation=0)
    home = {pixels(index).tobytes(): patient for index, patient in enumerate(patients)}
    sides = [
        {home[image.permute(1, 2, 0).numpy().tobytes()] for image in part}
        for part in (data.train_images, data.test_images)
    ]
    assert sides[0] | sides[1] == {0, 1, 2, 3}
    assert not sides[0] & sides[1]
    assert f"the images are of 4 groups; {len(sides[0])} train, and {len(sides[1])} test." in data.advice
    assert "unknown column 'patients'. Did you mean 'patient'?" in refusal(place, group_column="patients")
    assert "Did you mean 'group_column'?" in refusal(place, group="patient")
    patients[3] = None
    place = saved(tmp_path / "gap", train=split(labels, patient=(patients, Value("int64"))))
    assert "1 of 24 images of split 'train' have no value in 'patient'" in refusal(place, group_column="patient")


@needs_datasets
def test_a_test_split_with_secret_classes_is_left_out(tmp_path):
    secret = split([-1, -1], 50)
    data = load(saved(tmp_path / "x", train=split([0, 1, 2] * 2), test=secret, validation=split([0, 1, 2], 20)))
    assert data.test_counts == (1, 1, 1)
    assert "split 'test' is left out, since its images have no classes." in data.advice
    place = saved(tmp_path / "y", train=split([0, -1, 2]), test=split([0, 2], 9))
    assert "1 of 3 images of split 'train' have no class in 'label' (it is missing, or -1)" in refusal(place)


# ---- what is refused -----------------------------------------------------------------------------


@needs_datasets
def test_a_damaged_image_and_one_that_is_not_there(tmp_path):
    from datasets import Dataset, Features, Image as Images, Value

    rows = {"image": [{"bytes": b"no image", "path": None}, None], "label": ["a", "b"]}
    place = tmp_path / "x"
    Dataset.from_dict(rows, features=Features(image=Images(), label=Value("string"))).save_to_disk(str(place))
    said = (
        f"{place}, train[0]: this is not an image, or a damaged one: remove it or put it right. 1 more cannot be used"
    )
    assert refusal(place).startswith(said)
    rows["image"].reverse()
    Dataset.from_dict(rows, features=Features(image=Images(), label=Value("string"))).save_to_disk(str(tmp_path / "z"))
    assert refusal(tmp_path / "z").startswith(f"{tmp_path / 'z'}, train[0]: there is no image in column 'image'")
    damaged = [{"bytes": b"no image %d" % number, "path": None} for number in range(4)]
    only = Dataset.from_dict({"image": damaged, "label": ["a", "b"] * 2})
    only.cast_column("image", Images()).save_to_disk(str(tmp_path / "y"))
    said = refusal(tmp_path / "y")
    assert re.match(rf"{tmp_path / 'y'}, train\[\d\]: this is not an image, .* 3 more cannot be used", said)


@needs_datasets
def test_what_has_no_images_or_no_classes(tmp_path):
    from datasets import Dataset, Sequence, Value

    Dataset.from_dict({"text": ["a"], "label": [0]}).save_to_disk(str(tmp_path / "texts"))
    assert "no column has encoded images. Its columns are 'text', 'label'." in refusal(tmp_path / "texts")
    several = split([0, 1], tags=([[0], [0, 1]], Sequence(Value("int64")))).remove_columns("label")
    several.save_to_disk(str(tmp_path / "several"))
    assert "no column has a class for each image" in refusal(tmp_path / "several")
    assert "column 'tags' has no class for each image" in refusal(tmp_path / "several", label_column="tags")
    (tmp_path / "empty").mkdir()
    assert "it is no data set of Hugging Face (The directory at" in refusal(tmp_path / "empty")


@needs_datasets
def test_a_name_on_the_hub_without_a_network(ltdd, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    said = one_line_error(ltdd("data", "show", "--data", "hf:nobody/nothing"))
    assert "'nobody/nothing': there is no such folder, and the hub of Hugging Face cannot be reached (" in said
    assert (
        "datasets.load_dataset('nobody/nothing').save_to_disk('FOLDER'), and give that folder: --data hf:FOLDER."
        in said
    )


def test_what_can_be_seen_before_anything_is_read(ltdd):
    Path("file.parquet").write_bytes(b"")
    for words, message in (
        (("hf",), "data source 'hf' needs a folder or a name on the hub: --data hf:NAME."),
        (("hf:./nowhere",), "'./nowhere': there is no such folder, and it is no name on the hub"),
        (("hf:file.parquet",), "'file.parquet': this is a file; give the folder that it is in."),
    ):
        assert message in one_line_error(ltdd("data", "show", "--data", *words))


def test_without_the_library_one_line_says_what_to_install(ltdd, monkeypatch):
    monkeypatch.setattr("ltdd_huggingface.library.find_spec", lambda name: None)
    said = one_line_error(ltdd("data", "show", "--data", "hf:uoft-cs/cifar10"))
    assert said.endswith("is not installed: pip install 'ltdd[huggingface]'.")


@needs_datasets
def test_a_run_from_the_command_line_is_evaluated_from_another_folder(ltdd, tmp_path, monkeypatch):
    saved(tmp_path / "here" / "animals", train=split([0, 0, 0, 1, 1, 2]), test=split([0, 1, 2], 30))
    assert ltdd("distill", "--method", "dm", "--data", "hf:animals", *TINY).exit_code == 0
    (run,) = Path("runs").glob("animals-dm-*")
    config, report = (run / "config.yaml").read_text(), json.loads((run / "report.json").read_text())
    assert "root: animals" in config
    assert report["data"]["classes"] == ["cat", "dog", "owl"]
    monkeypatch.chdir(tmp_path)
    assert ltdd("evaluate", Path("here") / run, "--head", "linear", *TINY[8:]).exit_code == 0
    monkeypatch.chdir(tmp_path / "here")
    shown = ltdd("data", "show", "--data", "hf", "--root", "animals", "--json")
    assert json.loads(shown.stdout)["counts"] == [3, 2, 1]
