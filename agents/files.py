"""Files that survive whatever interrupts their writing."""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffusion_gym.errors import InvalidInputError, first_line, one_line
from diffusion_gym.parsing import as_path

_PARTIAL = re.compile(r"\..*\.[0-9a-f]{12}\.partial(\.[^.]*)?")
_REPLACED = re.compile(r"\.(?P<name>.*)\.[0-9a-f]{12}\.replaced")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A place beside ``path`` to write a file or a folder to; put in its place when all is written.

    Whatever interrupts the writing, ``path`` afterwards is what it was before, or complete. What
    was written is on the disk before it gets its name. A symbolic link is written through. A folder
    that is replaced is away only between two renames; where a process is killed there, the next
    writing beside it brings the old one back. Several processes may write at once: the last one to
    finish wins. What a killed process has left is removed by the next writing beside it.

    Example:
        >>> with atomic(Path("figures.json")) as partial:
        ...     _ = partial.write_text("{}")

    Args:
        path: Where the file or folder shall be; what is there is replaced by another of its kind.

    Yields:
        A path that does not exist yet, with the same suffix.

    Raises:
        InvalidInputError: ``path`` is something else than a file or a folder, such as a device; or
            a folder where a file was written, or the reverse. It is then left as it was.
    """
    target = _target(path)
    with _writing_in(target.parent):
        token = secrets.token_hex(6)
        # The stem is cut, so that a name of the greatest length has a partial one, too.
        partial = target.with_name(f".{target.stem[:32]}.{token}.partial{target.suffix[:32]}")
        try:
            yield partial
            _check_kinds(partial, target)
            _settle(partial, target)
            _put_in_place(partial, target, token)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                _remove(partial)
            raise
        _sync(target.parent)


def discard(folder: Path) -> None:
    """Deletes a folder, which is there as a whole or not at all, whatever interrupts this."""
    doomed = folder.with_name(f".{folder.name[:32]}.{secrets.token_hex(6)}.partial")
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)  # what stays is a leftover


def file_to_write(text: str) -> Path:
    """The path of a file that a command shall write, checked before there is anything to write.

    Raises:
        InvalidInputError: Its folder does not exist; or there is something else than a file.
    """
    path = as_path("the file to write", text)
    target = _target(path)
    if target.is_dir():
        raise InvalidInputError(f"expected a file to write to, got the folder {path}")
    if not target.parent.is_dir():
        raise InvalidInputError(
            f"expected an existing folder for {one_line(str(path))}, found none"
        )
    return path


def is_leftover(path: Path) -> bool:
    """Whether a name is one that `atomic` writes to; what has it is never complete."""
    return any(pattern.fullmatch(path.name) for pattern in (_PARTIAL, _REPLACED))


def _target(path: Path) -> Path:
    """Where ``path`` leads.

    Raises:
        InvalidInputError: To something that cannot be replaced.
    """
    try:
        target = path.resolve()
        # Asked once, and before links are followed: another process may be replacing what is
        # there, and /dev/stdout leads to no path at all.
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):  # free, or for the writer to complain of
        return path.resolve()
    except (OSError, RuntimeError) as error:  # a circle of links, a name that is too long
        raise InvalidInputError(
            f"expected a file or a folder to write to, got {one_line(str(path))}: "
            f"{first_line(error)}"
        ) from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InvalidInputError(f"expected a file or a folder to write to, got {path}")
    return target


@contextmanager
def _writing_in(folder: Path) -> Iterator[None]:
    """Marks a folder as written to, and clears away what dead writers left if it was not.

    The mark is a shared lock, which the system takes off when the process ends in whatever way.
    Whoever gets the lock for itself alone knows that no partial file belongs to a living process.
    """
    if not folder.is_dir():  # the writer makes it, or fails in words of its own
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # taken, or a file system without locks: left there
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in filter(is_leftover, folder.iterdir()):
                replaced = _REPLACED.fullmatch(path.name)
                if replaced and not (folder / replaced["name"]).exists():
                    path.rename(folder / replaced["name"])
                else:
                    _remove(path)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _check_kinds(partial: Path, target: Path) -> None:
    try:
        is_folder = stat.S_ISDIR(target.stat().st_mode)
    except FileNotFoundError:
        return  # free, or just being replaced by another process
    if is_folder != partial.is_dir():
        wanted, found = ("folder", "file") if partial.is_dir() else ("file", "folder")
        raise InvalidInputError(f"expected a {wanted} to write to, got the {found} {target}")


def _settle(partial: Path, target: Path) -> None:
    """Puts all that was written on the disk, with the modes that new files have here.

    Some libraries make files that only their owner may read. A file that is replaced keeps its
    mode.
    """
    replaced = target.stat().st_mode if target.is_file() else None
    new = _mode_of_new_files(partial) if replaced is None else 0
    for path in (partial, *(partial.rglob("*") if partial.is_dir() else ())):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            continue
        if path.is_file():  # a program stays one
            path.chmod(stat.S_IMODE(path.stat().st_mode | new if replaced is None else replaced))
        _sync(path)


def _mode_of_new_files(partial: Path) -> int:
    """What the umask leaves of a file's permissions; asking for the umask would change it."""
    probe = partial.with_name(f".mode.{secrets.token_hex(6)}.partial")
    descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        return os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)
        probe.unlink()


def _sync(path: Path) -> None:
    """Waits until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_in_place(partial: Path, target: Path, token: str) -> None:
    """Renames ``partial``; a folder in its place goes aside first, and away afterwards."""
    if not partial.is_dir():
        partial.replace(target)
        return
    aside = target.with_name(f".{target.name}.{token}.replaced")
    try:
        while True:
            with contextlib.suppress(FileNotFoundError):  # nothing is there
                target.rename(aside)  # a folder cannot be renamed onto one that is not empty
            try:
                partial.replace(target)
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                _remove(aside)  # another writer was faster: its folder goes aside as well
    except BaseException:
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
