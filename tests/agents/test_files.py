"""Writing that survives: interruptions, full disks, other writers, and what stands in the way."""

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agents.files import atomic, is_leftover
from diffusion_gym.errors import InvalidInputError

WRITE_FOREVER = """
import sys, time
from pathlib import Path
from agents.files import atomic
with atomic(Path(sys.argv[1])) as partial:
    partial.mkdir()
    (partial / "half").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""

WRITE_OFTEN = """
import sys
from pathlib import Path
from agents.files import atomic
target, mark, folder = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "folder"
for _ in range(60):
    with atomic(target) as partial:
        if folder:
            partial.mkdir()
            for name in "ab":
                (partial / name).write_text(mark * 1000)
        else:
            partial.write_text(mark * 1000)
"""


def run(code: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def write_folder(path: Path, text: str) -> None:
    with atomic(path) as partial:
        partial.mkdir()
        (partial / "inside").mkdir()
        (partial / "inside" / "file").write_text(text)


def write_file(path: Path, text: str) -> None:
    with atomic(path) as partial:
        partial.write_text(text)


def content(path: Path) -> str:
    return (path / "inside" / "file" if path.is_dir() else path).read_text()


WRITERS = pytest.mark.parametrize("write", [write_file, write_folder], ids=["file", "folder"])
Write = Callable[[Path, str], None]


@WRITERS
def test_what_is_written_replaces_what_was_there(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    for text in ("first", "second"):
        write(path, text)
        assert content(path) == text
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_interruption_changes_nothing(
    error: type[BaseException], kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "result.txt"
    write = write_file if kind == "file" else write_folder
    write(path, "first")

    def write_half() -> None:
        with atomic(path) as partial:
            if kind == "folder":
                partial.mkdir()
            (partial / "half" if kind == "folder" else partial).write_text("half")
            raise error("stop")

    with pytest.raises(error, match="stop"):
        write_half()
    assert content(path) == "first"
    assert list(tmp_path.iterdir()) == [path]


class Interruption(BaseException):
    """Stands for whatever ends a process between two operations on files."""


OPERATIONS = ("open", "fsync", "rename", "replace", "unlink", "chmod", "rmdir", "mkdir")


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], list[str]]]:
    """Makes the n-th operation on files from now on the last one; 0: counts them only."""
    done: list[str] = []
    last = 0

    def guarded(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def operation(*arguments: object, **options: object) -> object:
            done.append(name)
            if 0 < last <= len(done):  # what follows does not happen either: the process is dead
                raise Interruption
            return real(*arguments, **options)

        return operation

    def start(number: int) -> list[str]:
        nonlocal last
        done.clear()
        last = number
        return done

    for name in OPERATIONS:
        monkeypatch.setattr(os, name, guarded(name))
    yield start
    monkeypatch.undo()


@WRITERS
@pytest.mark.parametrize("there", [False, True])
def test_killed_at_any_operation_it_is_old_or_new(
    write: Write,
    there: bool,
    interrupt: Callable[[int], list[str]],
    tmp_path: Path,
) -> None:
    """Nothing of the process runs after the interruption, not even its clearing up."""
    path = tmp_path / "probe" / "result.txt"
    path.parent.mkdir()
    if there:
        write(path, "old")
    done = interrupt(0)
    write(path, "new")
    count = len(done)
    assert count > 4
    seen = set()
    for number in range(1, count + 1):
        path = tmp_path / str(number) / "result.txt"
        interrupt(0)
        path.parent.mkdir()
        if there:
            write(path, "old")
        interrupt(number)
        with pytest.raises(Interruption):
            write(path, "new")
        interrupt(0)
        write_file(path.parent / "neighbour", "")  # the next writing puts everything in order
        found = content(path) if path.exists() else "nothing"
        assert found in ({"old", "new"} if there else {"nothing", "new"}), number
        seen.add(found)
        assert {p.name for p in path.parent.iterdir()} <= {"neighbour", "result.txt"}
    assert len(seen) == 2


def test_what_a_killed_process_left_goes_with_the_next_writing(tmp_path: Path) -> None:
    process = run(WRITE_FOREVER, tmp_path / "folder")
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    (left,) = tmp_path.iterdir()
    assert is_leftover(left)
    write_file(tmp_path / "one", "1")  # the other process is alive
    assert left.is_dir()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    write_file(tmp_path / "two", "2")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_two_processes_never_mix(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "result"
    processes = [run(WRITE_OFTEN, path, mark, kind) for mark in "xyz"]
    seen = set()
    while any(process.poll() is None for process in processes):
        if kind == "file" and path.exists():
            seen.add(path.read_text())
        time.sleep(0.001)
    for process in processes:
        assert process.communicate()[1] == ""
        assert process.returncode == 0
    if kind == "folder":
        seen = {(path / "a").read_text()}
        assert (path / "b").read_text() in seen
    assert seen <= {mark * 1000 for mark in "xyz"}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.txt"
    write_file(path, "first")
    with pytest.raises(OSError, match="No space left"), atomic(path):
        Path("/dev/full").write_text("more")
    real = os.fsync

    def full(descriptor: int) -> None:  # where space is only claimed on writing back
        real(descriptor)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, "second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@WRITERS
def test_a_link_is_written_through(write: Write, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link, target = tmp_path / "link", tmp_path / "elsewhere" / "result"
    link.symlink_to(target)
    for text in ("first", "second"):  # first a link that leads nowhere
        write(link, text)
        assert link.is_symlink()
        assert content(target) == text


def test_a_link_inside_a_folder_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("own")
    for _ in range(2):
        with atomic(tmp_path / "folder") as partial:
            partial.mkdir()
            (partial / "link").symlink_to(tmp_path / "own")
            (partial / "nowhere").symlink_to(tmp_path / "nowhere")
    assert (tmp_path / "own").read_text() == "own"
    assert (tmp_path / "folder" / "link").is_symlink()


def test_what_is_no_file_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_pipe").symlink_to(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for path in (Path("/dev/null"), *(tmp_path / name for name in ("pipe", "to_pipe", "circle"))):
        with pytest.raises(InvalidInputError, match="expected a file or a folder"), atomic(path):
            raise AssertionError("expected a refusal first")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_standard_output_is_no_file_to_replace() -> None:
    code = (
        "from pathlib import Path; from agents.files import atomic\n"
        "with atomic(Path('/dev/stdout')): pass"
    )
    error = run(code).communicate()[1]
    assert "InvalidInputError: expected a file or a folder to write to, got /dev/stdout" in error


def test_a_file_does_not_replace_a_folder_nor_a_folder_a_file(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", "kept")
    write_file(tmp_path / "file", "kept")
    with pytest.raises(InvalidInputError, match=r"expected a file .* got the folder .*folder"):
        write_file(tmp_path / "folder", "lost")
    with pytest.raises(InvalidInputError, match=r"expected a folder .* got the file .*file"):
        write_folder(tmp_path / "file", "lost")
    assert content(tmp_path / "folder") == content(tmp_path / "file") == "kept"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_files_have_the_mode_that_new_files_have(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    usual = (tmp_path / "usual").stat().st_mode
    with atomic(tmp_path / "folder") as partial:
        partial.mkdir()
        (partial / "private").touch(mode=0o600)
        (partial / "program").touch()
        (partial / "program").chmod(0o755)
    assert (tmp_path / "folder" / "private").stat().st_mode == usual
    assert (tmp_path / "folder" / "program").stat().st_mode & 0o777 == 0o755
    (tmp_path / "usual").chmod(0o640)
    write_file(tmp_path / "usual", "again")
    assert (tmp_path / "usual").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "name", ["n" * 255, "a." + "s" * 250, ".hidden", "two.parts.npz", "é" * 120]
)
def test_any_name_that_a_file_may_have(name: str, tmp_path: Path) -> None:
    for text in ("first", "second"):
        write_file(tmp_path / name, text)
    assert (tmp_path / name).read_text() == "second"
    assert not is_leftover(tmp_path / name)


def test_the_partial_file_has_the_suffix(tmp_path: Path) -> None:
    with atomic(tmp_path / "image.png") as partial:
        assert partial.suffix == ".png"
        assert partial.parent == tmp_path
        assert is_leftover(partial)
        partial.touch()
