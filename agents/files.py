"""Files that survive whatever interrupts their writing."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffusion_gym.errors import InvalidInputError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A place beside ``path`` to write a file or a folder to; put in its place when all is written.

    Whatever interrupts the writing, ``path`` afterwards is what it was before, or complete. What
    was written is on the disk before it gets its name, and who may read it is what the umask says,
    whatever the library that wrote it thinks. A symbolic link is written through. A folder that is
    replaced is away only between two renames.

    Example:
        >>> with atomic(Path("figures.json")) as partial:
        ...     partial.write_text("{}")

    Args:
        path: Where the file or folder shall be; a folder that is there is replaced.

    Yields:
        A path that does not exist yet, with the same suffix.

    Raises:
        InvalidInputError: There is something that is neither a file nor a folder, such as a device.
    """
    path = path.resolve()
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InvalidInputError(f"expected a file or a folder to write to, got {path}")
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    _remove(partial)
    try:
        yield partial
        mode = _usual_mode(partial)
        for file in (partial, *(partial.rglob("*") if partial.is_dir() else ())):
            if file.is_file():
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
                if stat.S_IMODE(file.stat().st_mode) != mode:  # safetensors: 600
                    file.chmod(mode)
        if path.is_dir():  # a folder cannot be renamed onto one that is not empty
            aside = path.with_name(f".{path.name}.replaced")
            _remove(aside)
            path.rename(aside)
            partial.replace(path)
            _remove(aside)
        else:
            partial.replace(path)
    except BaseException:
        _remove(partial)
        raise


def _usual_mode(partial: Path) -> int:
    """The mode of files that are simply opened; only setting the umask would tell it."""
    probe = partial.with_name(f"{partial.name}.mode")
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    return mode


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
