"""The gallery: its page and its script have the same commands, its pictures are small, and the script writes a page."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from ltdd_core import configure

TOP = Path(__file__).parent.parent
PAGE = TOP / "docs" / "gallery.md"
SPEC = importlib.util.spec_from_file_location("gallery", TOP / "benchmarks" / "gallery.py")
gallery = importlib.util.module_from_spec(SPEC)
sys.modules["gallery"] = gallery
SPEC.loader.exec_module(gallery)


def commands(text):
    return re.findall(r"^```sh\n(.*)\n```$", text, re.MULTILINE)


def test_the_page_has_the_commands_of_the_script_in_their_order():
    digits, photographs = ([shot.command for shot in shots] for shots in (gallery.DIGITS, gallery.CIFAR10))
    assert commands(PAGE.read_text(encoding="utf-8")) in (digits, digits + photographs)


def test_the_page_has_the_texts_and_the_configuration_of_the_script():
    text = PAGE.read_text(encoding="utf-8")
    found = commands(text)
    for shot in (*gallery.DIGITS, *gallery.CIFAR10):
        assert (f"## {shot.title}\n\n{gallery.wrapped(shot.says)}\n" in text) == (shot.command in found)
    assert f"```yml\n{gallery.SHORT}```" in text
    configure(method="dm", **yaml.safe_load(gallery.SHORT))


def test_every_command_of_the_page_has_its_time_and_what_it_printed():
    text = PAGE.read_text(encoding="utf-8")
    parts = text.split("\n## ")[1:]
    assert len(parts) == len(commands(text))
    for part in parts:
        assert re.search(r"^It took \d+ seconds\.\n\n```text\n.+", part, re.MULTILINE), part


def test_the_pictures_are_those_of_the_page_and_small():
    folder = TOP / "docs" / "images" / "gallery"
    named = re.findall(r"\]\(images/gallery/(.+)\)", PAGE.read_text(encoding="utf-8"))
    assert sorted(named) == sorted(path.name for path in folder.iterdir())
    assert named
    assert sum(path.stat().st_size for path in folder.iterdir()) < gallery.ROOM
    for name in named:
        with Image.open(folder / name) as picture:
            assert picture.width <= gallery.WIDE


@pytest.mark.parametrize("shot", [*gallery.DIGITS, *gallery.CIFAR10], ids=lambda shot: shot.title)
def test_a_command_uses_only_what_an_earlier_one_has_made(shot):
    shots = [*gallery.DIGITS, *gallery.CIFAR10]
    made = {words[words.index("--out") + 1] for words in map(shlex.split, _before(shot, shots)) if "--out" in words}
    words = shlex.split(shot.command)
    if words[1] in ("compare", "relabel"):
        runs = [word for word in words[2:] if not word.startswith("--")]
        assert set(runs[: None if words[1] == "compare" else 1]) <= made
    if shot.picture and "/" in shot.picture:
        assert shot.picture.split("/")[0] == words[words.index("--out") + 1]


def _before(shot, shots):
    return [each.command for each in shots[: shots.index(shot)]]


def test_the_script_writes_the_page_and_its_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "DIGITS", gallery.DIGITS[:1])
    old = tmp_path / "images" / "gallery" / "old.png"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"")
    gallery.main(["--docs", str(tmp_path)])
    text = (tmp_path / "gallery.md").read_text(encoding="utf-8")
    assert commands(text) == [gallery.DIGITS[0].command]
    assert "digits-lt: 342 training and 500 test images" in text
    assert f"Python {sys.version.split()[0]}" in text
    assert [path.name for path in old.parent.iterdir()] == ["the-data.png"]
    assert "](images/gallery/the-data.png)" in text


def test_a_command_that_fails_writes_no_page(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "DIGITS", [gallery.Shot("Wrong", "No such command.", "ltdd nonsense")])
    with pytest.raises(gallery.subprocess.CalledProcessError):
        gallery.main(["--docs", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_the_bars_of_the_classes_are_left_out_unless_they_are_wanted():
    printed = " trained on  acc. \n ─────\n dm  90.0 \n\n0 %: 7 (dm)\nclass images dm\n0  124 ███\n"
    shot = gallery.Shot("A run", "Says so.", "ltdd distill")
    assert gallery.shown(gallery.Result(shot, printed, 1.0)).endswith("0 %: 7 (dm)")
    assert gallery.shown(gallery.Result(shot._replace(bars=True), printed, 1.0)).endswith("0  124 ███")
