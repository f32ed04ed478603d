"""Python in processes of their own that need not import torch and diffusers anew.

A server, which has imported what the commands import, forks at each start: a process with memory,
signals and an exit status of its own, seconds earlier. How the interpreter itself begins and ends
is not the same: what is tested of that starts it as users do.
"""

import multiprocessing
import os
import runpy
import sys
from io import TextIOWrapper
from multiprocessing.connection import Connection
from typing import TextIO

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["agents.runs.cli", "agents.runs.training"])


class Start:
    """``python -m module options`` or ``python -c code options``.

    Attributes:
        stdout: What it prints.
        stderr: Its errors.
        pid: Its number.
    """

    def __init__(self, kind: str, what: str, *options: object) -> None:
        ends = [SERVER.Pipe(duplex=False) for _ in range(2)]
        self.stdout, self.stderr = (_reading(reader) for reader, _ in ends)
        writers = [writer for _, writer in ends]
        words = [what, *map(str, options)]
        self._process = SERVER.Process(target=_run, args=(kind, words, *writers), daemon=True)
        self._process.start()
        for writer in writers:
            writer.close()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def poll(self) -> int | None:
        """The exit status, negative after a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float = 300) -> int:
        """Waits for its end; returns the exit status, negative after a signal."""
        self._process.join(seconds)
        assert self._process.exitcode is not None, f"it runs for more than {seconds} s"
        return self._process.exitcode

    def rest(self) -> tuple[str, str]:
        """Waits for its end; returns what it prints until then, and its errors."""
        printed = self.stdout.read()
        return printed, self.stderr.read()


def _reading(end: Connection) -> TextIO:
    with end:
        return TextIOWrapper(os.fdopen(os.dup(end.fileno()), "rb"))


def _run(kind: str, words: list[str], stdout: Connection, stderr: Connection) -> None:
    """What the new process does."""
    for number, end in ((1, stdout), (2, stderr)):
        os.dup2(end.fileno(), number)
        end.close()
    sys.argv = words if kind == "-m" else ["-c", *words[1:]]
    if kind == "-m":
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    else:
        exec(words[0], {"__name__": "__main__"})
