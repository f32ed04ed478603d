"""What is written to the terminal: texts of users are never markup, and never control it."""

import os
import shlex
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text


class Screen(Console):
    """A console whose reader may go away, as ``| head`` does, without ending what is going on."""

    def on_broken_pipe(self) -> None:
        """Goes on in silence."""
        self.quiet = True
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())  # else Python complains when it flushes at its end


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
