"""How classes are drawn, the same everywhere: the colours of many, medium and few, and names in any script."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from rich.cells import cell_len, chop_cells

from ltdd_core.data.longtail import shot_groups

SHOT_COLOURS = {"many": "#4477aa", "medium": "#228833", "few": "#aa3377"}
"""The colour of a class by its training images: three of Paul Tol's bright scheme, which colour-blind readers can tell
apart."""
SHOT_WORDS = {"many": "many: over 100 images", "medium": "medium: 20 to 100", "few": "few: under 20"}
"""What a legend says of each."""
WIDE = 28  # characters of a line of a name beside a picture
BASE = "DejaVu Sans"  # comes with matplotlib
NO_LETTERS = ("Last Resort", "STIXNonUnicode")  # fonts whose glyphs are boxes, or stand for other characters
BREAKS = " _-/.,"  # after which a name is folded best


def shots_of(counts: Sequence[int]) -> list[str]:
    """Of each class whether it is one of ``many``, ``medium`` or ``few``.

    Args:
        counts: training images of each class.
    """
    shot_of = {label: shot for shot, members in shot_groups(counts).items() for label in members}
    return [shot_of[label] for label in range(len(counts))]


def shot_colours(counts: Sequence[int]) -> list[str]:
    """The colour of each class, ``#rrggbb``.

    Args:
        counts: training images of each class.
    """
    return [SHOT_COLOURS[shot] for shot in shots_of(counts)]


def spread_out(classes: Sequence[int], most: int) -> list[int]:
    """At most so many of the classes, in their order: the first, the last, and others at equal distances between.

    Args:
        classes: from head to tail.
        most: how many, at least 1.
    """
    if len(classes) <= most:
        return list(classes)
    return [classes[round(place * (len(classes) - 1) / max(1, most - 1))] for place in range(most)]


@dataclass(frozen=True)
class Lettering:
    """Fonts that names can be drawn with."""

    families: list[str]
    """Font families, for the ``fontfamily`` of a matplotlib text: a glyph is taken from the first that has it."""
    missing: str
    """The characters that no installed font has, each once."""

    def text(self, name: str) -> str:
        r"""A name as it is drawn: characters that cannot be are replaced by plainer ones, or else by escapes.

        A full-width ``a`` is ``a``, and ``猫`` is ``\u732b``; so are control characters, which no font has.
        """
        return "".join(map(self._drawn, name))

    def _drawn(self, character: str) -> str:
        if unicodedata.category(character) not in ("Cc", "Cs") and character not in self.missing:
            return character
        plainer = unicodedata.normalize("NFKC", character)
        return plainer if plainer.isascii() and plainer.isprintable() else character.encode("unicode_escape").decode()

    def note(self) -> str | None:
        """A sentence that says what is missing; None where nothing is."""
        if not self.missing:
            return None
        shown = self.missing[:10] + ("..." if len(self.missing) > 10 else ".")
        return (
            f"no installed font has these characters of the class names: {shown} Pictures show their codes. "
            "Install a font with them, such as Noto."
        )


def lettering(names: Iterable[str]) -> Lettering:
    """Fonts for all characters of some names, the usual one first.

    Args:
        names: of classes or lines, in any script.
    """
    characters = {character for name in names for character in name}
    return _lettering("".join(sorted(c for c in characters if unicodedata.category(c) not in ("Cc", "Cs"))))


@functools.lru_cache(maxsize=64)
def _lettering(characters: str) -> Lettering:
    families, missing = [BASE], set(characters) - _characters(BASE)
    if missing:
        _add_new_fonts()
        found = {}
        for family in _other_families():
            found[family] = missing & _characters(family)
            if found[family] == missing:  # one font for all of them looks best
                break
        while missing and found and (best := max(found, key=lambda family: len(found[family] & missing))):
            if not found[best] & missing:
                break
            families.append(best)
            missing -= found.pop(best)
    return Lettering(families, "".join(sorted(missing)))


@functools.cache
def _add_new_fonts() -> None:
    """Let matplotlib know of fonts that were installed after it wrote its list, as somebody does who reads the note."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    known = {entry.fname for entry in fontManager.ttflist}
    for path in sorted({*findSystemFonts()} - known):
        with suppress(OSError, RuntimeError, ValueError):  # no font that it can use
            fontManager.addfont(path)


def _other_families() -> list[str]:
    """The installed families with an upright face but the usual one; those without serifs first."""
    from matplotlib.font_manager import fontManager

    upright = [entry for entry in fontManager.ttflist if entry.style == "normal" and entry.weight in (400, "normal")]
    names = {entry.name for entry in upright if not entry.name.startswith((*NO_LETTERS, BASE))}
    return sorted(names, key=lambda name: ("Sans" not in name, name))


@functools.cache
def _characters(family: str) -> frozenset[str]:
    """What a font has glyphs for; nothing where its file cannot be read."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    try:
        path = findfont(FontProperties(family=family), fallback_to_default=False)
        return frozenset(map(chr, get_font(path).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()


def folded(name: str, width: int = WIDE) -> str:
    """A name in one line or two of at most so many characters; of a longer one the beginning and the end.

    Args:
        name: as it is drawn.
        width: characters of a line, at least 2; those of scripts such as Chinese count twice.
    """
    if cell_len(name) <= width:
        return name
    places = [place for place in range(1, len(name)) if name[place - 1] in BREAKS and name[place] not in ":,;"]
    for place in [*reversed(places), len(chop_cells(name, width)[0])]:
        first, second = name[:place].rstrip(), name[place:].lstrip()
        if cell_len(first) <= width and cell_len(second) <= width:
            return f"{first}\n{second}"
    return f"{chop_cells(name, width)[0]}\n…{chop_cells(name[::-1], width - 1)[0][::-1]}"
