"""Where a benchmark writes: to a folder of its own, or over what the repository keeps."""

import argparse
from pathlib import Path


def add_destination(
    parser: argparse.ArgumentParser, option: str, default: str, published: Path
) -> None:
    """Adds an option for the file or folder that is written, and ``--publish`` in its place.

    Args:
        parser: The benchmark's.
        option: ``--results`` or another name.
        default: Where results go if nothing is said.
        published: Where those that are kept in the repository lie.
    """
    where = parser.add_mutually_exclusive_group()
    where.add_argument(option, type=Path, default=Path(default), help=f"default: {default}")
    where.add_argument(
        "--publish",
        dest=option.removeprefix("--"),
        action="store_const",
        const=published,
        default=argparse.SUPPRESS,  # that of the option holds
        help="replace the results that are kept in the repository",
    )
