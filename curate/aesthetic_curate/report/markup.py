"""Text into HTML. Keys, captions and errors come from strangers: all of it is escaped here."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable, Sequence

NOTHING = "\N{EN DASH}"  # in a cell that has no value, and between two bounds
MOST_TEXT = 300  # characters of a caption, a key or an error
# What is no sign of its own but changes others: line breaks, escapes, overrides of the direction.
_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def escape(text: object) -> str:
    """HTML text or a quoted attribute's value."""
    return html.escape(str(text), quote=True)


def foreign(text: object, most: int = MOST_TEXT) -> str:
    """A stranger's text, escaped, after `plain`."""
    return escape(plain(text, most))


def plain(text: object, most: int = MOST_TEXT) -> str:
    """A stranger's text on one line: cut off after `most` signs, invisible ones as U+FFFD."""
    words = "" if text is None else str(text)
    if len(words) > most:
        words = words[: most - 1] + "…"
    shown = (
        "\ufffd" if unicodedata.category(sign) in _INVISIBLE and sign not in "\t\n" else sign
        for sign in words
    )
    return "".join(shown).replace("\n", " ").replace("\t", " ")


def attributes(**values: object) -> str:
    """` name="value"` pairs; `_` in names becomes `-`. Values are escaped; None leaves one out."""
    return " ".join(
        f'{name.replace("_", "-")}="{escape(value)}"'
        for name, value in values.items()
        if value is not None
    )


def table(
    titles: Sequence[str], rows: Iterable[Sequence[str]], *, name: str, caption: str = ""
) -> str:
    """A table of titles and cells that are HTML already; the first column heads its row.

    With the class `stack` in `name`, a narrow screen shows a cell a line, after its title.
    """
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    opened = [f'<td data-title="{title}">' if "stack" in name else "<td>" for title in titles]
    body = "".join(
        f'<tr><th scope="row">{first}</th>'
        + "".join(f"{td}{cell}</td>" for td, cell in zip(opened[1:], cells, strict=True))
        + "</tr>"
        for first, *cells in rows
    )
    title = f"<caption>{caption}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table class="{name}">{title}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def number(count: float) -> str:
    """A whole number with its thousands apart."""
    return f"{count:,.0f}"


def percent(part: float, whole: float) -> str:
    """A share, with the digits that it deserves; a small one is never called 0 %."""
    if not whole:
        return NOTHING
    share = 100 * part / whole
    if not part or part == whole or share >= 99.95:
        return f"{share:.0f} %" if not part or part == whole else "> 99.9 %"
    if share < 0.001:
        return "< 0.001 %"
    return f"{share:.1f} %" if share >= 1 else f"{share:.2g} %"
