"""Names and colours of classes in pictures: fonts, folding, and the picture of a distilled set."""

import itertools
import json
import warnings
from pathlib import Path

import pytest
import torch
from conftest import TINY
from hypothesis import given, strategies as st
from PIL import Image
from rich.cells import cell_len

from ltdd_core.data import drawing
from ltdd_core.data.drawing import SHOT_COLOURS, folded, lettering, shot_colours, spread_out
from ltdd_core.data.longtail import by_count
from ltdd_core.data.normalisation import PerChannel
from ltdd_core.data.pictures import class_sheet
from ltdd_core.runs import pictures
from ltdd_core.runs.distilled import DistilledSet
from ltdd_core.runs.pictures import save_picture
from ltdd_core.testing.tiny import tiny_long_tailed

NOWHERE = "\U000e0001"  # a tag, which no font draws
SCRIPTS = ["a wild animal of the northern plains", "Ωμέγα", "Дикое животное", "دریایی", "猫" * 30, NOWHERE, "$x_1$"]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12))
def test_classes_are_by_count_and_else_in_their_order(counts):
    order = by_count(counts)
    assert sorted(order) == list(range(len(counts)))
    assert all(counts[a] > counts[b] or (counts[a] == counts[b] and a < b) for a, b in itertools.pairwise(order))


@given(st.lists(st.integers(), min_size=1, max_size=60, unique=True), st.integers(1, 60))
def test_classes_that_are_spread_out_have_both_ends(classes, most):
    found = spread_out(classes, most)
    assert len(found) == min(len(classes), most)
    assert found == [one for one in classes if one in set(found)]
    assert found[0] == classes[0]
    assert most == 1 or found[-1] == classes[-1]


def test_colours_are_by_training_images():
    many, medium, few = SHOT_COLOURS.values()
    assert shot_colours([19, 101, 20, 100]) == [few, many, medium, medium]


def test_a_font_is_found_that_has_the_characters_and_what_none_has_is_spelt_out(monkeypatch):
    fonts = {drawing.BASE: "abc Ω", "Serif": "猫", "Sans CJK": "猫犬", "Sans Half": "犬"}
    monkeypatch.setattr(drawing, "_characters", lambda family: frozenset(fonts[family]))
    monkeypatch.setattr(drawing, "_other_families", lambda: [name for name in fonts if name != drawing.BASE])
    drawing._lettering.cache_clear()
    assert lettering(["abc", "Ω"]) == drawing.Lettering([drawing.BASE], "")
    assert lettering(["猫犬"]).families == [drawing.BASE, "Sans CJK"]
    found = lettering(["猫 犬 ل", "\x1b"])
    assert found.families == [drawing.BASE, "Sans CJK"]
    assert found.missing == "ل"
    assert found.text("猫ل\x1b") == "猫\\u0644\\x1b"
    assert "ل" in found.note()
    assert lettering(["\uff41"]).text("\uff41") == "a"
    drawing._lettering.cache_clear()


def test_the_fonts_of_this_machine_have_what_they_are_said_to_have(caplog):
    """Drawn without a warning or a message of matplotlib, in whatever script."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    letters = lettering(SCRIPTS)
    figure = Figure()
    for name in SCRIPTS:
        figure.text(0.1, 0.1, folded(letters.text(name)), fontfamily=letters.families, parse_math=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FigureCanvasAgg(figure).draw()
    assert not caplog.records
    assert NOWHERE in letters.missing


@given(st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=90), st.integers(4, 40))
def test_a_folded_name_has_two_lines_that_fit_and_loses_only_its_middle(name, width):
    lines = folded(name, width).split("\n")
    assert len(lines) <= 2
    assert all(cell_len(line) <= width for line in lines)
    if cell_len(name) <= width:
        assert lines == [name]
    elif len(lines) == 2 and not lines[1].startswith("…"):
        assert "".join(name.split()) == "".join("".join(lines).split())


def test_a_name_is_folded_where_a_word_ends():
    assert folded("striped_hyena_of_the_plains", 16) == "striped_hyena_\nof_the_plains"
    assert folded("dm (--plugin twostage): distilled", 24) == "dm (--plugin twostage):\ndistilled"
    assert folded("cats, dogs", 5) == "cats,\ndogs"
    assert folded("a" * 60) == "a" * 28 + "\n…" + "a" * 27
    assert folded("猫" * 30) == "猫" * 14 + "\n…" + "猫" * 13


def distilled_set(names, height=8, width=8):
    """An image of a class has its number as the brightness."""
    labels = torch.arange(len(names)).repeat_interleave(2)
    levels = (labels / len(names))[:, None, None, None].expand(-1, 3, height, width)
    return DistilledSet(levels.clone(), labels, tuple(names), PerChannel((0.0,) * 3, (1.0,) * 3), 2)


def rows_of(path):
    """The brightness of each row of a picture, from 0 to 1."""
    with Image.open(path) as picture:
        sheet = json.loads(picture.text["sheet"])
        left, top, _right, bottom = sheet["box"]
        step = (bottom - top) / sheet["rows"]
        pixels = picture.convert("L")
        places = [top + (row + 0.45) * step for row in range(sheet["rows"])]
        return [pixels.getpixel((left + 20, round(place))) / 255 for place in places]


def test_the_rows_of_the_picture_go_from_head_to_tail(tmp_path):
    made = distilled_set(["few", "many", "猫" * 30, "b" * 60])
    save_picture(tmp_path / "a.png", made, [3, 500, 40, 19])
    assert rows_of(tmp_path / "a.png") == pytest.approx([0.25, 0.5, 0.75, 0], abs=0.02)
    save_picture(tmp_path / "b.png", made)
    assert rows_of(tmp_path / "b.png") == pytest.approx([0, 0.25, 0.5, 0.75], abs=0.02)


def test_of_many_classes_the_picture_shows_head_and_tail(tmp_path):
    save_picture(tmp_path / "a.png", distilled_set([f"class {label}" for label in range(100)]), list(range(1, 101)))
    found = rows_of(tmp_path / "a.png")
    assert len(found) == 50
    assert found[0] == pytest.approx(0.99, abs=0.02)
    assert found[-1] == pytest.approx(0, abs=0.02)
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(("height", "shown"), [(8, 8), (64, 64), (224, 63)])
def test_large_images_are_as_large_in_the_picture_as_there_are_dots_for_them(tmp_path, height, shown):
    made = distilled_set(["a", "b", "c", "d"], height, height)
    save_picture(tmp_path / "a.png", made, [1, 2, 3, 4])
    assert rows_of(tmp_path / "a.png") == pytest.approx([0.75, 0.5, 0.25, 0], abs=0.02)
    with Image.open(tmp_path / "a.png") as picture:
        assert json.loads(picture.text["sheet"])["size"][1] == shown
    one = class_sheet(made.images, torch.full((8,), 3), made.class_names)  # the others have no images
    assert one.startswith(b"\x89PNG")


def test_a_run_says_once_which_characters_no_font_has_and_quiet_says_nothing(ltdd):
    for part, size in (("train", 4), ("test", 2)):
        for name in (f"{NOWHERE}tag", "dog"):
            Path("data", part, name).mkdir(parents=True)
            for index in range(size):
                Image.new("RGB", (16, 16), (40 * index, 100, 200)).save(Path("data", part, name, f"{index}.png"))
    command = ["distill", "--method", "dm", "--data", "folder", "--root", "data", *TINY]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loud, quiet = ltdd(*command), ltdd(*command, "--quiet")
    assert loud.exit_code == quiet.exit_code == 0
    assert loud.stderr.count("no installed font has") == 1
    assert quiet.stderr == ""


def test_a_font_that_was_installed_after_matplotlib_wrote_its_list_is_found(monkeypatch):
    from matplotlib import font_manager

    before = font_manager.fontManager.ttflist
    caches = drawing._add_new_fonts, drawing._lettering, drawing._characters
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [one for one in before if one.name == drawing.BASE])
    monkeypatch.setattr(
        font_manager,
        "findSystemFonts",
        lambda: [one.fname for one in before if one.name == "DejaVu Serif"] + ["no font"],
    )
    try:
        for cache in caches:
            cache.cache_clear()
        found = lettering(["\u1d15"])  # which DejaVu Sans does not have
        assert (found.families, found.missing) == ([drawing.BASE, "DejaVu Serif"], "")
    finally:
        for cache in caches:
            cache.cache_clear()


def test_the_picture_of_many_classes_takes_the_images_of_those_that_it_draws(tmp_path, monkeypatch):
    taken, draw = [], pictures.class_sheet
    monkeypatch.setattr(pictures, "class_sheet", lambda images, *more: taken.append(len(images)) or draw(images, *more))
    pictures.save_data_picture(tmp_path / "picture.png", tiny_long_tailed([70 - label // 2 for label in range(120)]))
    assert taken == [50 * 8]  # of 120 classes
    with Image.open(tmp_path / "picture.png") as picture:
        assert json.loads(picture.text["sheet"])["rows"] == 50
