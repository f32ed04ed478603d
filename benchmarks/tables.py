"""Tables in Markdown, as every benchmark publishes them."""

from collections.abc import Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; no line break at its end.

    Args:
        header: The names of its columns.
        rows: Its cells, row by row.
    """
    lines = (header, ["---"] * len(header), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
