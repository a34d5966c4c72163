"""Names as they may be shown: what a terminal would obey, or no encoding can write, is spelt out."""

from __future__ import annotations

import unicodedata


def visible(text: str, *, keep: str = "") -> str:
    r"""The text with control characters and lone surrogates as escapes: ``\x1b``, ``\n``, ``\udc80``.

    ``keep`` are characters that stay as they are.
    """
    if text.isprintable():  # as nearly all are; the characters of a page are many
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ("Cc", "Cs") and character not in keep
        else character
        for character in text
    )
