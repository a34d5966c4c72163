"""Tests of benchmarks/glyphs.py, which draws large long-tailed image folders from fonts."""

import shutil
import sys
from pathlib import Path

import pytest
from matplotlib import get_data_path
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import glyphs


def test_the_profile_is_that_of_imagenet_lt():
    counts = glyphs.counts_of(1000, 115_846)
    assert (counts[0], counts[-1], sum(counts)) == (1280, 5, 115_846)
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(("classes", "images"), [(2, 10), (7, 36), (100, 1200), (999, 5000)])
def test_the_total_is_exactly_as_asked(classes, images):
    counts = glyphs.counts_of(classes, images)
    assert (len(counts), sum(counts), min(counts)) == (classes, images, glyphs.FEWEST)


def test_the_same_files_whatever_the_number_of_jobs(tmp_path, capsys):
    for name in ("DejaVuSans.ttf", "DejaVuSerif.ttf"):
        shutil.copy(Path(get_data_path(), "fonts", "ttf", name), tmp_path)
    asked = ["--classes", "3", "--images", "140", "--size", "16", "--test", "2", "--fonts", str(tmp_path)]
    for jobs in (1, 2):
        glyphs.main([str(tmp_path / str(jobs)), *asked, "--jobs", str(jobs)])
    files = [path.relative_to(tmp_path / "1") for path in sorted((tmp_path / "1").rglob("*.jpg"))]
    assert [path.parts[0] for path in files].count("train") == 140
    assert [path.parts[0] for path in files].count("test") == 6
    assert all((tmp_path / "1" / path).read_bytes() == (tmp_path / "2" / path).read_bytes() for path in files)
    assert len({(tmp_path / "1" / path).read_bytes() for path in files}) == 146
    with Image.open(tmp_path / "1" / files[0]) as picture:
        assert picture.size == (16, 16)
    assert "146 images of 16 x 16 pixels in 3 classes" in capsys.readouterr().out


def test_too_few_fonts_name_the_package(tmp_path):
    with pytest.raises(SystemExit, match="apt-get install fonts-noto-cjk"):
        glyphs.main([str(tmp_path / "out"), "--classes", "9", "--images", "99", "--fonts", str(tmp_path)])
    assert not (tmp_path / "out").exists()
