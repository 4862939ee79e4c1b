"""Texts of strangers made harmless for chats and mail, whatever markup the target reads.

Names, reasons and run fields come from clients. In a chat they could mention everybody, look like a link to
somewhere else, or like a message of Hoop's own. What is active in Slack, Teams, Discord, Telegram, Markdown
or HTML is replaced by what looks alike and is not.
"""

from __future__ import annotations

import re
import unicodedata

_ALIKE = str.maketrans(
    {
        "@": "\uff20",  # mentions
        "<": "\u2039",
        ">": "\u203a",
        "&": "\uff06",
        "[": "\uff3b",
        "]": "\uff3d",
        "`": "\u02cb",
        "*": "\u2217",
        "~": "\u223c",
        "|": "\u2223",
        "#": "\uff03",
        "\\": "\u29f5",
        "/": "\u2215",
    }
)
_NAME = re.compile(r"(?!WWW\.)[A-Z0-9_$]+(\.[A-Z0-9_$]+){2}\Z")
_DOT = re.compile(r"(?<=\w)[.\u3002\uff0e\uff61](?=\w)")
"""Also those that browsers take for one in a host's name (UTS #46)."""
_SCHEME = re.compile(r":(?=\u2215)|(?<=mailto):|(?<=tel):", re.IGNORECASE)
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Mn", "Me"})


def plain(text: object, most: int = 200, *, table: bool = False) -> str:
    """One line of at most `most` characters, with nothing in it that a program would act on.

    A `table` that Hoop itself has found keeps its dots, where its full name is of no form that becomes a link.
    """
    shown = "".join(_visible(c) for c in unicodedata.normalize("NFC", str(text)[: 4 * most]))
    shown = " ".join(shown.split())
    if len(shown) > most:
        shown = shown[: most - 1] + "\u2026"
    shown = shown.translate(_ALIKE)
    # evil.example would become a link by itself
    dotted = shown if table and _NAME.match(shown) else _DOT.sub("\u2024", shown)
    return _SCHEME.sub("\u2236", dotted)


def _visible(character: str) -> str:
    """Line ends, and what turns or hides text, are no part of a line."""
    if character in "\t\n\r":
        return " "
    return "" if unicodedata.category(character) in _INVISIBLE else character
