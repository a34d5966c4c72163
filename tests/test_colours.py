"""Images of every mode that people have become 8-bit grey or RGB, and what was converted is said once."""

import itertools
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from ltdd_core import InputError
from ltdd_core.data.folder import ImageFolder
from ltdd_core.data.given import find_images, range_of, read_image
from ltdd_core.data.imagefile import decode, read_header
from ltdd_core.data.load import load_long_tailed

RED = (200, 0, 0)


def read(path, mode="RGB", side=8):
    """The pixels of a file as integers [H, W] or [H, W, 3]."""
    return np.asarray(decode(path, mode, side, side)).astype(int)


def said(tmp_path, *files):
    """What is said of files beside two plain ones in each part."""
    for number, (part, name) in enumerate(itertools.product(("train", "test"), "ab")):
        (tmp_path / part / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, 90, 90)).save(tmp_path / part / name / "plain.png")
    for number, file in enumerate(files):
        (tmp_path / "train" / "a" / f"{number}{file.suffix}").write_bytes(file.read_bytes())
    data = load_long_tailed("folder", ImageFolder(ImageFolder.Options(root=tmp_path)))
    return [sentence for sentence in data.advice if "test images" not in sentence]


def png(path, colour_type, channels, values):
    """A PNG of 16 bits and 8x8 pixels, which Pillow does not write in colour: one value a channel."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 8, 8, 16, colour_type, 0, 0, 0)
    rows = zlib.compress((b"\0" + struct.pack(f">{channels}H", *values) * 8) * 8)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


# ---- CMYK --------------------------------------------------------------------------------------------


def inks(space=b"CMYK"):
    """A colour profile in which cyan makes grey, black makes black, and the other inks make nothing."""
    nodes = itertools.product(range(2), repeat=4)
    table = bytes(value for cyan, _, _, black in nodes for value in (0 if black else 255 - 155 * cyan, 128, 128))
    lut = struct.pack(">4sIBBBx9i", b"mft1", 0, 4, 3, 2, *(65536 * (i % 4 == 0) for i in range(9)))
    lut += bytes(range(256)) * 4 + table + bytes(range(256)) * 3
    head = struct.pack(">I4sI4s4s4s", 0, b"lcms", 0x02400000, b"prtr", space, b"Lab ") + bytes(12) + b"acsp"
    head = (head + bytes(28) + struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)).ljust(128, b"\0")
    content = head + struct.pack(">I4sII", 1, b"A2B0", 144, len(lut)) + lut
    return struct.pack(">I", len(content)) + content[4:]


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_becomes_rgb_and_is_not_inverted(tmp_path, suffix):
    """JPEG files hold the inks inverted, as Adobe writes them, and TIFF files do not."""
    path = tmp_path / f"a.{suffix}"
    Image.new("CMYK", (8, 8), (0, 255, 255, 55)).save(path, **({"quality": 95} if suffix == "jpg" else {}))
    assert np.abs(read(path) - RED).max() <= 3
    assert np.abs(read(path, "L") - 60).max() <= 3


def test_cmyk_follows_the_profile_in_the_file_where_it_is_of_use(tmp_path):
    path, cyan, yellow = tmp_path / "a.tif", (255, 0, 0, 0), (0, 0, 255, 0)
    for colour, expected in ((cyan, 92), (yellow, 255)):  # lightness 39 and 100 of 100, without colour
        Image.new("CMYK", (8, 8), colour).save(path, icc_profile=inks())
        assert np.abs(read(path) - expected).max() <= 3
    for useless in (b"damaged", inks(b"RGB "), inks()[:200]):
        Image.new("CMYK", (8, 8), yellow).save(path, icc_profile=useless)
        assert np.abs(read(path) - (255, 255, 0)).max() <= 1


# ---- more than 8 bits --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm", "jp2"])
def test_16_bits_of_grey_are_scaled_and_not_cut_off(tmp_path, suffix):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(values).save(path)
    assert np.abs(read(path, "L") - values / 257).max() <= 0.51
    assert (read(path)[..., 0] == read(path, "L")).all()
    assert read_header(path).grey


@pytest.mark.parametrize(("order", "packed"), [("<", None), (">", None), ("<", "tiff_lzw")])
def test_16_bits_in_either_order_of_bytes_and_packed(tmp_path, order, packed):
    values = np.linspace(0, 65535, 64).reshape(8, 8).astype(f"{order}u2")
    picture = Image.frombytes("I;16" if order == "<" else "I;16B", (8, 8), values.tobytes())
    picture.save(tmp_path / "a.tif", compression=packed)
    assert np.abs(read(tmp_path / "a.tif", "L") - values / 257).max() <= 0.51


def test_in_a_tiff_zero_may_be_white(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.full((8, 8), 60000, np.uint16)).save(path, tiffinfo={262: 0})
    with Image.open(path) as opened:
        assert (opened.tag_v2[262], opened.getpixel((0, 0))) == (0, 60000)
    assert np.abs(read(path, "L") - 22).max() <= 1


@pytest.mark.parametrize(
    ("colour_type", "values", "expected"),
    [
        (2, (0xC8C8, 0, 0), RED),
        (6, (0xC8C8, 0, 0, 65535), RED),
        (6, (0, 0, 0, 0), (255,) * 3),
        (4, (0x6464, 65535), (100,) * 3),
    ],
)
def test_16_bits_of_colour(tmp_path, colour_type, values, expected):
    path = png(tmp_path / "a.png", colour_type, len(values), values)
    assert np.abs(read(path) - expected).max() <= 1
    assert "deep" in read_header(path).converted


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_without_a_range_are_refused(tmp_path, mode):
    Image.new(mode, (8, 8), 7).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=f"images of mode {mode} are not taken, .*: save it as 8-bit RGB or grey"):
        read_header(tmp_path / "a.tif")


@pytest.mark.parametrize(("kind", "levels"), [(np.float32, (0, 1)), (np.int32, (-1000, 400)), (np.uint16, (0, 4095))])
def test_values_whose_range_is_declared(tmp_path, kind, levels):
    black, white = levels
    values = (black + (white - black) * np.linspace(0, 1, 64).reshape(8, 8)).astype(kind)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert read_header(tmp_path / "a.tif", levels).converted == ("ranged",)
    found = np.asarray(decode(tmp_path / "a.tif", "L", 8, 8, levels)).astype(int)
    assert np.abs(found - (values.astype(float) - black) / (white - black) * 255).max() <= 0.51
    narrow = np.asarray(decode(tmp_path / "a.tif", "L", 8, 8, (black, black + (white - black) / 2)))
    assert (narrow[4:] == 255).all()
    if kind == np.float32:
        values[3, 3] = np.inf
        Image.fromarray(values).save(tmp_path / "a.tif")
        said = r"a.tif: a value is infinite or no number \(NaN\): remove it or put it right"
        with pytest.raises(InputError, match=said):
            decode(tmp_path / "a.tif", "L", 8, 8, levels)


def test_a_classifier_reads_files_in_the_range_of_its_training(tmp_path):
    path, facts = tmp_path / "a.png", {"data": {"range": [0, 4095]}}
    Image.fromarray(np.full((8, 8), 2048, np.uint16)).save(path)
    (given,) = find_images([path])
    assert read_image(given, (1, 8, 8), range_of(facts))[0].unique().tolist() == [128]
    assert read_image(given, (1, 8, 8), range_of({}))[0].unique().tolist() == [8]


# ---- channels beyond colour --------------------------------------------------------------------------


def four_bands(path, extra):
    """RGB and a band of zeros in a TIFF; ``extra`` is what the file calls that band, None: nothing."""
    Image.new("RGBA", (8, 8), (*RED, 0)).save(path)
    content = path.read_bytes()
    tag = struct.pack("<HHIHH", 338, 3, 1, 2, 0)
    assert content.count(tag) == 1
    # Without the tag: another one that nobody reads in its place.
    other = struct.pack("<HHIHH", 338, 3, 1, extra, 0) if extra is not None else struct.pack("<HHIHH", 337, 3, 1, 2, 0)
    path.write_bytes(content.replace(tag, other))
    return path


@pytest.mark.parametrize("extra", [None, 0])
def test_near_infrared_is_no_transparency(tmp_path, extra):
    path = four_bands(tmp_path / "a.tif", extra)
    assert np.abs(read(path) - RED).max() <= 1
    assert read_header(path).converted == ("band",)


@pytest.mark.parametrize("extra", [1, 2])
def test_transparency_in_a_tiff_is_some(tmp_path, extra):
    path = four_bands(tmp_path / "a.tif", extra)
    assert (read(path) == 255).all()
    assert read_header(path).converted == ("alpha",)


def test_a_tiff_of_other_channels_is_refused_as_what_it_is(tmp_path):
    path = tmp_path / "a.tif"
    Image.new("RGBA", (8, 8)).save(path)
    content = path.read_bytes().replace(struct.pack("<HHIHH", 277, 3, 1, 4, 0), struct.pack("<HHIHH", 277, 3, 1, 7, 0))
    path.write_bytes(content)
    with pytest.raises(InputError, match="a TIFF file that is damaged, or of channels or depths that are not read"):
        read_header(path)


# ---- frames, and which side is up --------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_of_several_frames_the_first_is_used(tmp_path, suffix):
    path, (first, *others) = tmp_path / f"a.{suffix}", [Image.new("RGB", (8, 8), c) for c in (RED, (0, 0, 200))]
    first.save(path, save_all=True, append_images=others, **({"lossless": True} if suffix == "webp" else {}))
    assert np.abs(read(path) - RED).max() <= 1
    assert "frames" in read_header(path).converted


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_turned_images_have_the_size_of_upright_ones(tmp_path, suffix):
    path, exif = tmp_path / f"a.{suffix}", Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGB", (24, 8))
    picture.paste(RED, (0, 0, 12, 8))  # the left, which is the top of the upright image
    picture.save(path, exif=exif)
    header = read_header(path)
    assert (header.size, header.converted) == ((8, 24), ("turned",))
    found = np.asarray(decode(path, "RGB", 24, 8)).astype(int)
    assert np.abs(found[:10] - RED).max() <= 25
    assert np.abs(found[14:]).max() <= 25


# ---- what is said ------------------------------------------------------------------------------------


def test_each_kind_is_counted_and_said_once(tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    for number in range(2):
        Image.new("CMYK", (8, 8), (number,) * 4).save(made / f"{number}.tif")
    Image.fromarray(np.full((8, 8), 999, np.uint16)).save(made / "deep.png")
    Image.new("RGBA", (8, 8), (9, 9, 9, 9)).save(made / "clear.png")
    Image.new("RGB", (8, 8), RED).convert("P").save(made / "few.gif")
    four_bands(made / "bands.tif", 0)
    photograph = Image.Exif()
    photograph[0x0112] = 3
    Image.new("RGB", (8, 8), (1, 2, 3)).save(made / "up.jpg", exif=photograph)
    assert said(tmp_path / "data", *sorted(made.iterdir())) == [
        "2 images are CMYK; they are converted to RGB.",
        "1 image has the colours of a palette; it is converted to RGB.",
        "1 image has 16 bits; the values 0 to 65535 become 0 to 255.",
        "1 image has an alpha channel; what is transparent becomes white.",
        "1 image has a fourth channel that is no transparency, such as near infrared; it is left out.",
        "1 image is turned upright, as the EXIF data say.",
    ]


def test_plain_images_are_not_mentioned(tmp_path):
    buffer = tmp_path / "grey.png"
    Image.new("L", (8, 8), 7).save(buffer)
    assert said(tmp_path / "data", buffer) == []


def test_16_bit_grey_alone_has_one_channel(tmp_path):
    for number, (part, name) in enumerate(itertools.product(("train", "test"), "ab")):
        (tmp_path / part / name).mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 257 * number, np.uint16)).save(tmp_path / part / name / "0.png")
    data = load_long_tailed("folder", ImageFolder(ImageFolder.Options(root=tmp_path)))
    assert data.image_shape == (1, 8, 8)
    assert torch.equal(data.test_images.flatten(1)[:, 0], torch.tensor([2, 3], dtype=torch.uint8))
