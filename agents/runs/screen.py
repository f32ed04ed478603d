"""What is written to the terminal: texts of users are never markup, and never control it."""

import shlex
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text


def plain(text: str, style: str = "") -> Text:
    """A text as rich shows it to the letter, without the control characters that may be in it."""
    visible = "".join(c if c.isprintable() or c == "\n" else "�" for c in text)
    return Text(visible, style=style)


def say(console: Console, text: str, *, heading: str = "", style: str = "") -> None:
    """Prints a text on a line of its own, unwrapped, so that paths can be copied.

    Args:
        console: Where to.
        text: Of whatever origin.
        heading: Words of our own before it.
        style: Rich's style of the heading, or of the text where there is none.
    """
    line = Text(f"{heading} ", style=style) if heading else Text()
    console.print(line + plain(text, "" if heading else style), soft_wrap=True, highlight=False)


def command(words: Sequence[object]) -> str:
    """A command that can be pasted into a shell, whatever is in its arguments."""
    return shlex.join(map(str, words))
