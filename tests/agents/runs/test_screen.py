"""Texts of users on the terminal."""

import io
import re
import subprocess

import pytest
from rich.console import Console

from agents.runs.live import LiveView
from agents.runs.run_folder import RunFolder
from agents.runs.screen import command, plain, say
from agents.runs.settings import TrainSettings

NASTY = ["[v] dog", "[/INST] a cat", "[red]x[/red]", "a [b", "$ \\frac", "C:\\[x]\\y", "[link=x]"]


@pytest.mark.parametrize("text", NASTY)
def test_nothing_is_markup(text: str) -> None:
    console = Console(file=io.StringIO(), record=True, width=40)
    say(console, text, heading="[bold]:", style="bold")
    say(console, text, style="dim")
    assert console.export_text() == f"[bold]: {text}\n{text}\n"


def test_long_lines_are_not_wrapped() -> None:
    console = Console(file=io.StringIO(), record=True, width=20)
    say(console, "/a/long/path" * 9)
    assert console.export_text() == "/a/long/path" * 9 + "\n"


def test_nothing_controls_the_terminal() -> None:
    text = plain("a\x1b[31m cat\x1b]0;title\x07 \x9b2J \r\b\u202e end").plain
    assert not any(ord(c) < 32 or c in "\x7f\x9b\u202e" for c in text)
    assert "cat" in text
    assert plain("äöü 猫 🐱").plain == "äöü 猫 🐱"


@pytest.mark.parametrize(
    "text", ["a cat`touch x`", "$(touch x)", "it's", "two words", "", "a;b", "*"]
)
def test_suggested_commands_can_be_pasted(text: str) -> None:
    words = command(("printf", "%s|", text))
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout == f"{text}|"


def test_the_bar_of_a_resumed_run_starts_where_it_was() -> None:
    view = LiveView(Console(file=io.StringIO()), images=100, done=60, rewards=[0.5])
    (task,) = view.progress.tasks
    assert (task.completed, task.total) == (60, 100)


@pytest.mark.parametrize(
    ("done", "expected"), [(0, ["2:42:00", "2:24:00"]), (40, ["1:30:00", "1:12:00"])]
)
def test_the_first_round_tells_how_long_the_rest_will_take(done: int, expected: list[str]) -> None:
    now = [0.0]
    console = Console(file=io.StringIO(), force_terminal=True, get_time=lambda: now[0], width=80)
    values = {"rollout/reward_mean": 0.5, "count/rounds": 1, "time/images_per_second": 0.1}
    view = LiveView(console, images=100, done=done, rewards=[0.5] if done else [])
    now[0] = 50.0  # the evaluation before training
    with view:
        for number, left in enumerate(expected, 1):
            now[0] += 1080.0  # a round of ten images, as with Stable Diffusion
            view.write(values, {}, step=done + 10 * number)
            assert view.progress.tasks[0].fields["left"] == left
            with console.capture() as shown:
                console.print(view.progress)
            assert f"images, left: {left}" in re.sub(r"\x1b\[[\d;]*m", "", shown.get())


def test_two_runs_at_the_same_moment_share_no_folder(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = TrainSettings.of(reward="house_style", shaping="coca", seed=3)
    names = [RunFolder.create(settings).path.name for _ in range(3)]
    stem = "house_style-coca-seed3"
    assert names == [stem, f"{stem}-2", f"{stem}-3"]
