"""Images that lists name: what a list may look like, what is wrong with one, and the lists of the literature."""

import csv
import io
import json
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import TINY, one_line_error
from hypothesis import given, strategies as st
from PIL import Image

from ltdd_core import InputError
from ltdd_core.cli import cli
from ltdd_core.data.known_lists import ImageNetLT, INaturalist2018, PlacesLT
from ltdd_core.data.listed_classes import classes_of
from ltdd_core.data.listfile import Columns, Faults, read_class_names, read_list
from ltdd_core.data.lists import ImageList, missing
from ltdd_core.data.load import load_long_tailed
from ltdd_core.data.tiny_imagenet import TinyImageNet


def run(*args):
    return CliRunner().invoke(cli, [str(arg) for arg in args], prog_name="ltdd")


def load(source=ImageList, **options):
    return load_long_tailed("list", source(source.Options(**options)))


def refusal(source=ImageList, **options):
    with pytest.raises(InputError) as caught:
        load(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def entries(path, text, columns=None):
    """What a list holds: paths, labels, lines and parts."""
    path.write_bytes(text.encode())
    faults = Faults()
    found = read_list(path, columns or Columns(), faults)
    faults.refuse()
    return [entry[:4] for entry in found.entries]


def write(path, number, size=(8, 8)):
    """An image that no other has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def root(tmp_path):
    """Three classes of 12, 6 and 3 images, and 2 test images each, in lists of numbers: `train.txt` and `test.txt`."""
    lines, number = {"train": [], "test": []}, 0
    for label, count in enumerate((12, 6, 3)):
        for place in range(count + 2):
            name, number = f"some images/{label}/{place}.png", number + 1
            write(tmp_path / name, number)
            lines["test" if place < 2 else "train"].append(f"{name} {label}")
    for part, own in lines.items():
        (tmp_path / f"{part}.txt").write_text("\n".join(own) + "\n")
    return tmp_path


# ---- what a list may look like -----------------------------------------------------------------------

WORD = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\r\n\x85", exclude_categories=["Zs", "Cc"]), min_size=1
)
LABEL = WORD.filter(lambda text: len(text.split()) == 1)
NAME = st.lists(LABEL, min_size=1, max_size=3).map(" ".join)


@given(
    st.lists(st.tuples(NAME, LABEL), min_size=1), st.sampled_from(["\n", "\r\n", "\n\n"]), st.booleans(), st.booleans()
)
def test_a_line_is_a_path_which_may_have_spaces_and_a_label(tmp_path_factory, images, end, last, mark):
    text = "\ufeff" * mark + end.join(f"{name} {label}" for name, label in images) + end * last
    found = entries(tmp_path_factory.getbasetemp() / "list.txt", text)
    assert [entry[:2] for entry in found] == [
        (name.removeprefix("\ufeff") if mark else name, label) for name, label in images
    ]
    step = 2 if end == "\n\n" else 1
    assert [entry[2] for entry in found] == [1 + step * place for place in range(len(images))]


@given(
    st.lists(st.tuples(NAME, LABEL, st.sampled_from(["train", "TEST", "Validation"])), min_size=1),
    st.sampled_from(",;\t"),
)
def test_a_table_has_columns_in_any_order(tmp_path_factory, images, delimiter):
    text = io.StringIO(newline="")
    rows = csv.writer(text, delimiter=delimiter)
    rows.writerow(["Split", "age", "LABEL", "image_id"])
    rows.writerows((part, "7", label, name) for name, label, part in images)
    ending = "tsv" if delimiter == "\t" else "csv"
    found = entries(tmp_path_factory.getbasetemp() / f"list.{ending}", text.getvalue())
    parts = {"train": "train", "TEST": "test", "Validation": "val"}
    assert [(name, label, part) for name, label, _, part in found] == [
        (name, label, parts[part]) for name, label, part in images
    ]


def test_columns_are_those_that_a_user_names(tmp_path):
    text = "image,label,path,kind,split\na.png,0,b.png,cat,7\n"
    assert entries(tmp_path / "l.csv", text) == [("b.png", "0", 2, "")]  # 7 is no part
    named = Columns(path="image", label="kind")
    assert entries(tmp_path / "l.csv", text, named) == [("a.png", "cat", 2, "")]
    with pytest.raises(InputError, match=r"l\.csv: unknown column 'knd'\. Did you mean 'kind'\?"):
        entries(tmp_path / "l.csv", text, Columns(label="knd"))
    with pytest.raises(
        InputError, match=r"which column has the classes\? The first line has path, grade: .*label_column"
    ):
        entries(tmp_path / "l.csv", "path,grade\na.png,2\n")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("tench\ngreat white shark\n", ("tench", "great white shark")),
        ("/b/bar 1\n/a/airfield 0\n", ("/a/airfield", "/b/bar")),
        ("Boeing 737\nBoeing 747", ("Boeing 737", "Boeing 747")),
        ("class 0\nclass 1", ("class 0", "class 1")),
        ("b 2\na 1", ("a", "b")),
    ],
)
def test_a_file_of_class_names(tmp_path, text, names):
    (tmp_path / "names.txt").write_text(text)
    assert read_class_names(tmp_path / "names.txt") == names


def numbers(tmp_path, train, test=(), names=None):
    """The names of the classes of labels, and the class of each."""
    faults, lists = Faults(), {}
    for part, labels in (("train", train), ("test", test)):
        file = tmp_path / f"{part}.txt"
        file.write_text("".join(f"{place}.png {label}\n" for place, label in enumerate(labels)))
        if labels:
            lists[part] = read_list(file, Columns(), faults)
    found = classes_of(lists, names, faults)
    faults.refuse()
    return found.names, {part: found.of(listed) for part, listed in lists.items()}, found.notes


def test_labels_are_numbers_in_their_order_or_names(tmp_path):
    assert numbers(tmp_path, ["10", "9", "10"]) == (("9", "10"), {"train": [1, 0, 1]}, ())
    assert numbers(tmp_path, ["1.0", "0.0"], ["1"])[1] == {"train": [1, 0], "test": [1]}
    assert numbers(tmp_path, ["dog", "cat"], ["dog"])[:2] == (("cat", "dog"), {"train": [1, 0], "test": [1]})
    assert numbers(tmp_path, ["e\u0301lan", "\u00e9lan", "a"])[:2] == (("a", "\u00e9lan"), {"train": [1, 1, 0]})
    names, _, notes = numbers(tmp_path, ["3", "9"])
    assert (names, notes) == (("3", "9"), ("no image has 5 of the numbers from 3 to 9, so they are no classes.",))


def test_a_file_of_names_says_what_numbers_mean(tmp_path):
    names = ("cat", "dog", "owl")
    assert numbers(tmp_path, ["2", "0", "1"], names=names)[:2] == (names, {"train": [2, 0, 1]})
    assert numbers(tmp_path, ["1", "3", "2"], names=names)[:2] == (names, {"train": [0, 2, 1]})  # they begin with 1
    assert numbers(tmp_path, ["owl", "cat"], names=names)[:2] == (names, {"train": [2, 0]})
    assert numbers(tmp_path, ["7", "5"], names=("5", "7"))[:2] == (("5", "7"), {"train": [1, 0]})


def test_437513_lines_are_read_in_seconds(tmp_path):
    labels = np.random.default_rng(0).integers(0, 8142, 437_513).tolist()
    file = tmp_path / "iNaturalist18_train.txt"
    file.write_text("".join(f"train_val2018/Plantae/{label}/{n:032x}.jpg {label}\n" for n, label in enumerate(labels)))
    began, faults = time.process_time(), Faults()
    listed = read_list(file, Columns(), faults)
    classes = classes_of({"train": listed}, None, faults)
    assert time.process_time() - began < 5
    assert (len(listed.entries), len(classes.names)) == (437_513, 8142)


# ---- a list as a data source -------------------------------------------------------------------------


def test_lists_of_both_parts(root):
    data = load(root=root, train="train.txt", test="test.txt")
    assert (data.name, data.class_names, data.counts, data.test_counts) == (
        root.name,
        ("0", "1", "2"),
        (12, 6, 3),
        (2, 2, 2),
    )
    assert data.image_shape == (3, 8, 8)
    with Image.open(root / "some images" / "2" / "1.png") as image:
        assert torch.equal(data.test_images[-1].permute(1, 2, 0), torch.from_numpy(np.array(image)))
    assert load(train=root / "train.txt", test=root / "test.txt").digest == data.digest


def test_a_list_may_lie_where_the_command_is_given(root, tmp_path_factory, monkeypatch):
    here = tmp_path_factory.mktemp("here")
    (root / "train.txt").rename(here / "mine.txt")
    monkeypatch.chdir(here)
    assert load(root=root, train="mine.txt", test="test.txt").counts == (12, 6, 3)


def test_lists_are_called_after_the_folder_of_their_images(root):
    assert load(root=root, train="train.txt").name == root.name
    assert load(train=root / "train.txt").name == root.name  # and not train, as most lists are called
    assert load(train=root / "train.txt", title="mine").name == "mine"


def test_without_a_test_list_the_validation_list_tests_or_some_images_are_held_out(root):
    data = load(root=root, train="train.txt", val="test.txt")
    assert (data.test_counts, data.validation_count) == ((2, 2, 2), 0)
    assert "the validation images are the test part, since there is no other." in data.advice
    (root / "val.txt").write_text("".join((root / "test.txt").read_text().splitlines(keepends=True)[::2]))
    (root / "t.txt").write_text("".join((root / "test.txt").read_text().splitlines(keepends=True)[1::2]))
    data = load(root=root, train="train.txt", val="val.txt", test="t.txt")
    assert (data.test_counts, data.validation_counts) == ((1, 1, 1), (1, 1, 1))
    assert load(root=root, train="train.txt", validation=0).test_counts == (6, 3, 1)


def test_one_table_with_a_column_of_parts(root):
    lists = {part: (root / f"{part}.txt").read_text().splitlines() for part in ("train", "test")}
    lines = [(part, *line.rsplit(" ", 1)) for part, own in lists.items() for line in own]
    names = ["cat", "dog", "owl"]
    rows = [f"{name.removesuffix('.png')},{names[int(label)]},{part}" for part, name, label in lines]
    (root / "all.csv").write_text("\n".join(["image_id,dx,split", *rows]))
    whole = load(root=root, train="train.txt", test="test.txt")
    data = load(root=root, train="all.csv", suffix=".png")
    assert (data.class_names, data.counts, data.test_counts) == (("cat", "dog", "owl"), (12, 6, 3), (2, 2, 2))
    assert torch.equal(data.train_images, whole.train_images)
    assert data.advice[0] == (
        "all.csv: column 'image_id' has the paths and 'dx' the classes, and 'split' says which part an image is in."
    )
    both = load(root=root, train="all.csv", test="all.csv", suffix=".png")
    assert both.digest == data.digest


def test_images_of_a_group_in_a_table_stay_together(root):
    lines = [line.rsplit(" ", 1) for line in (root / "train.txt").read_text().splitlines()]
    rows = [f"{name},{label},{place // 3}" for place, (name, label) in enumerate(lines)]
    (root / "all.csv").write_text("\n".join(["path,label,patient", *rows]))
    data = load(root=root, train="all.csv", group_column="patient", validation=0)
    counted = next(sentence for sentence in data.advice if "groups" in sentence)
    assert counted == "the images are of 7 groups; 4 train, and 3 test."
    assert data.test_counts == (6, 3, 0)  # one class has only one patient
    assert "keep one of the two" in refusal(root=root, train="all.csv", group_column="patient", group="folder")
    (root / "plain.txt").write_text("a.png 0\nb.png 1\n")
    for column in ("path", "label", "split", "group"):  # it would be passed over, and a split by groups be none
        assert "plain.txt has no columns; a list whose name ends in .csv or .tsv has some" in refusal(
            root=root, train="plain.txt", **{f"{column}_column": "patient"}
        )
    assert "plain.txt has no columns" in refusal(root=root, train="plain.txt", test="all.csv", group_column="patient")
    (root / "all.csv").write_text("\n".join(["path,label,patient", *rows, "some images/0/0.png,0,"]))
    assert f"{root}/all.csv:23: no value of 'patient'" in refusal(root=root, train="all.csv", group_column="patient")


def test_a_list_that_was_written_on_windows(root):
    lines = [line.replace("/", "\\") for line in (root / "train.txt").read_text().splitlines()]
    (root / "train.txt").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    assert load(root=root, train="train.txt", test="test.txt").counts == (12, 6, 3)


def test_a_class_that_test_lacks_is_none_and_the_other_way_round_is_refused(root):
    (root / "few.txt").write_text("some images/0/0.png 0\n")
    assert load(root=root, train="train.txt", test="few.txt").test_counts == (1, 0, 0)
    lines = [line for line in (root / "train.txt").read_text().splitlines() if not line.endswith(" 1")]
    (root / "train.txt").write_text("\n".join(lines))
    assert refusal(root=root, train="train.txt", test="test.txt") == (
        f"2 lines are wrong. {root}/test.txt:3, {root}/test.txt:4: class '1' has no training image."
    )


def test_files_that_are_listed_twice_or_in_both_parts_are_told(root):
    with (root / "train.txt").open("a") as file:
        file.write("some images/0/0.png 0\nsome images/0/5.png 1\nsome images/0/5.png 0\n")
    data = load(root=root, train="train.txt", test="test.txt")
    assert data.counts == (14, 7, 3)
    told = " ".join(data.advice)
    assert (
        "train.txt: 2 lines have a file that is there already, and each counts; some images/0/5.png is there 3 times."
    ) in told
    assert "1 test image is a training image too, such as " in told
    assert "in another class too, such as " in told


def test_all_wrong_lines_are_said_at_once(root):
    (root / "bad.txt").write_text("a.png\nsome images/0/2.png 0\n\nb.png -1\nsome images/1/2.png 1\nlonely\n")
    (root / "bad2.txt").write_text("c.png 5\n")
    assert refusal(root=root, train="bad.txt", test="bad2.txt") == (
        f"4 lines are wrong. {root}/bad.txt:1, {root}/bad.txt:6: "
        "no path, space and label (a table needs a name in .csv); "
        f"{root}/bad.txt:4: class '-1' is below 0; {root}/bad2.txt:1: class '5' has no training image."
    )
    (root / "bad.csv").write_text("path,label,part\na.png,0,train\nb.png,,train\nc.png,1\nd.png,2,tset\n")
    assert refusal(root=root, train="bad.csv", split_column="part") == (
        f"3 lines are wrong. {root}/bad.csv:4: 2 values, and there are 3 columns; "
        f"{root}/bad.csv:3: no value of 'label'; {root}/bad.csv:5: 'part' is 'tset', not train, test or val."
    )
    (root / "names").write_text("cat\ndog\n")
    assert refusal(root=root, train="train.txt", class_names="names").startswith(
        f"3 lines are wrong. {root}/train.txt:19, {root}/train.txt:20, {root}/train.txt:21: class '2' has no name in "
    )
    (root / "long.txt").write_text("x\n" * 1000)
    message = refusal(root=root, train="long.txt")
    assert message.startswith("1000 lines are wrong. ")
    assert " and 995 more: " in message
    assert len(message) < 1000


def test_missing_files_are_counted_with_examples(root):
    (root / "gone.txt").write_text((root / "train.txt").read_text() + "nowhere/a.png 0\nsome images/1/9.png 1\n" * 2)
    message = refusal(root=root, train="gone.txt", test="test.txt")
    assert message.startswith(
        f"4 of 31 files are missing: {root}/nowhere/a.png ({root}/gone.txt:22), "
        f"{root}/some images/1/9.png ({root}/gone.txt:23), {root}/nowhere/a.png ({root}/gone.txt:24), .... "
    )
    assert "The paths start from" in message
    data = load(root=root, train="gone.txt", test="test.txt", skip_bad=True)
    assert data.counts == (12, 6, 3)
    assert any(sentence.startswith("2 images are left out, since they cannot be used") for sentence in data.advice)
    (root / "gone.txt").write_text("nowhere/a.png 0\nnowhere/b.png 1\n")
    assert refusal(root=root, train="gone.txt", skip_bad=True).startswith("2 of 2 files are missing: ")
    assert missing([str(root / "train.txt"), str(root / "no"), str(root / "no" / "no")]) == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "there is no image in this list."),
        (b"\xff\xfe\x00", "this is no text in UTF-8: save it as that."),
        (b'path,label\n"a.png,0\n', "this is no CSV (unexpected end of data)"),
        (b"path,label\n", "there is no image in this list."),
        (b"a.png,0\nb.png,1\n", "which column has the paths? The first line has a.png, 0: "),
        (b"path,label,label\na.png,0,1\n", "2 columns are called 'label': rename all but one."),
        (b"path,label\na\x00.png,0\n", "odd.csv:2: no value of 'path'"),
    ],
)
def test_lists_that_are_none(root, content, message):
    (root / "odd.csv").write_bytes(content)
    assert message in refusal(root=root, train="odd.csv")


def test_what_is_not_there(root):
    assert refusal().startswith("data source 'list' needs train=: ")
    assert refusal(root=root, train="x.txt").endswith(f"there is no such file, from here or in {root}.")
    assert refusal(root=root / "no", train="train.txt").endswith("there is no such folder.")
    (root / "one.txt").write_text("some images/0/2.png 0\nsome images/1/2.png 1\n")
    assert "every class has one image only" in refusal(root=root, train="one.txt")


# ---- whole commands ----------------------------------------------------------------------------------


def test_the_commands_take_lists(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    (root / "test.txt").rename(root.parent / "test.txt")
    lists = ("--data", "list", "--root", root, "--train", "train.txt", "--test", "test.txt")
    shown = run("data", "show", *lists, "--json")
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["counts"] == [12, 6, 3]
    result = run("distill", *lists, "--method", "dm", "--out", "run", *TINY, "--quiet")
    assert result.exit_code == 0, result.output
    facts = json.loads((root.parent / "run" / "run.json").read_text())["data"]
    assert (facts["name"], facts["counts"]) == (root.name, [12, 6, 3])
    # They are found in the root from any folder, and so is one that was named from where the command was given.
    (root.parent / "elsewhere").mkdir()
    monkeypatch.chdir(root.parent / "elsewhere")
    scored = run("evaluate", root.parent / "run", "--quiet")
    assert scored.exit_code == 0, scored.output
    monkeypatch.chdir(root.parent)
    # The lists may move with the images: a digest knows them again.
    moved = root.rename(root.parent / "moved")
    (moved / "train.txt").rename(moved / "t.txt")
    now = (*lists[:3], moved, "--train", "t.txt", *lists[6:])
    again = run("distill", *now, "--method", "dm", "--out", "run", *TINY, "--resume")
    assert again.exit_code == 0, again.output
    wrong = run("data", "show", *lists[:3], moved, "--train", "test.tx")
    assert one_line_error(wrong) == f"Error: --train test.tx: there is no such file, from here or in {moved}."


# ---- the sets of the literature ----------------------------------------------------------------------


KNOWN = {
    "imagenet-lt": (ImageNetLT, "ImageNet_LT", ("train", "test", "val")),
    "places-lt": (PlacesLT, "Places_LT", ("train", "test", "val")),
    "inat2018": (INaturalist2018, "iNaturalist18", ("train", "val")),
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("inside", [True, False])
def test_known_lists_are_found_by_their_names(root, name, inside):
    source, stem, parts = KNOWN[name]
    folder = root / stem if inside else root
    folder.mkdir(exist_ok=True)
    for part in parts:
        own = "train" if part == "train" else "test"
        (folder / f"{stem}_{part}.txt").write_text((root / f"{own}.txt").read_text())
    shown = run("data", "show", "--data", name, "--root", root, "--image-size", "8", "--json")
    assert shown.exit_code == 0, shown.output
    document = json.loads(shown.stdout)
    assert (document["name"], document["counts"], document["test_counts"]) == (name, [12, 6, 3], [2, 2, 2])
    assert document["validation_counts"] == ([2, 2, 2] if "test" in parts else [0, 0, 0])
    images, classes = source.published
    told = f"the list has 21 training images of 3 classes, and the published one {images} of {classes}: "
    assert any(sentence.startswith(told) for sentence in document["advice"])
    assert source.Options.model_fields["image_size"].default == 224


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_list_that_is_missing_says_where_to_get_it(tmp_path, name):
    _, stem, _ = KNOWN[name]
    where = f"'ltdd describe data {name}' says what it needs."
    assert one_line_error(run("data", "show", "--data", name)).endswith(f"a folder with images and lists. {where}")
    assert one_line_error(run("data", "show", "--data", name, "--root", tmp_path)) == (
        f"Error: --train {stem}_train.txt: there is no such file, from here or in {tmp_path}. {where}"
    )
    described = run("describe", "data", name).stdout
    assert "https://github.com/facebookresearch/classifier-balancing" in " ".join(described.split())
    assert "ROOT/" in described


@pytest.fixture
def tiny(tmp_path):
    """The layout of tiny-imagenet-200.zip, with two classes of 6 images."""
    folder = tmp_path / "tiny-imagenet-200"
    for label, name in enumerate(("n01443537", "n01629819")):
        for place in range(6):
            write(folder / "train" / name / "images" / f"{name}_{place}.JPEG", 10 * label + place, (64, 64))
        (folder / "train" / name / f"{name}_boxes.txt").write_text("n01443537_0.JPEG\t0\t10\t63\t58\n")
    for place in range(3):
        write(folder / "val" / "images" / f"val_{place}.JPEG", 100 + place, (64, 64))
        write(folder / "test" / "images" / f"test_{place}.JPEG", 200 + place, (64, 64))
    lines = [f"val_{place}.JPEG\tn0{('1629819', '1443537')[place % 2]}\t0\t32\t44\t62\n" for place in range(3)]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder


def test_tiny_imagenet_as_it_comes(tiny):
    for root in (tiny, tiny.parent):
        data = load(TinyImageNet, root=root, n_max=6, imbalance=3)
        assert (data.name, data.class_names) == ("list", ("n01443537", "n01629819"))
        assert (data.counts, data.test_counts, data.image_shape) == ((6, 2), (1, 2), (3, 64, 64))
    (tiny / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn09\t0\nval_1.JPEG\n")
    assert refusal(TinyImageNet, root=tiny).startswith("2 lines are wrong. ")
    (tiny / "val" / "val_annotations.txt").unlink()
    for name in data.class_names:  # as scripts sort them
        write(tiny / "val" / name / "images" / "0.JPEG", 300, (64, 64))
    for image in (tiny / "val" / "images").iterdir():
        image.unlink()
    assert load(TinyImageNet, root=tiny, n_max=6, imbalance=3).test_counts == (1, 1)
    assert refusal(TinyImageNet, root=tiny / "train").endswith("of tiny-imagenet-200.zip.")
