"""A run that is stopped, continued, meddled with, or wanted twice."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from starts import Start
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents import train
from agents.common.processes import Processes
from agents.runs.callbacks import Checkpoints, StopOnSignal
from agents.runs.run_folder import RunFolder
from agents.runs.tensorboard import TensorBoard
from diffusion_gym.errors import DiffusionGymError, InvalidInputError

QUICK = (
    "--images 12 --num-envs 4 --samples-per-prompt 2 --num-inference-steps 2 --eval-prompts 2 "
    "--eval-samples 1 --lora-rank 2 --reward jpeg_compressibility"
).split()


@pytest.fixture(scope="module")
def once_stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was asked to stop after its first round."""
    rounds = []

    def ask(callback: StopOnSignal) -> None:
        rounds.append(1)
        callback.asked = len(rounds) > 1
        original(callback)

    original = StopOnSignal._on_rollout_start
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopOnSignal, "_on_rollout_start", ask)
        assert train.main([*QUICK, "--output", str(folder)]) == 130
    return folder


@pytest.fixture
def stopped(once_stopped: Path, tmp_path: Path) -> RunFolder:
    """A copy of it, to go on with."""
    return RunFolder(Path(shutil.copytree(once_stopped, tmp_path / "run")))


def test_what_was_recorded_at_each_start_is_kept(stopped: RunFolder) -> None:
    assert len(stopped.metrics()) == 1
    assert train.main(["--resume", str(stopped.path)]) == 0
    first, second = stopped.records()
    assert first["settings"] == second["settings"]
    assert {"versions", "command", "device", "prompts_sha256", "commit"} <= set(first)
    assert [row["count/rounds"] for row in stopped.metrics()] == [1, 2, 3]


@pytest.mark.slow
def test_a_finished_run_is_extended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As if it had been started with more images, bit for bit."""
    run, whole = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "whole")
    assert train.main([*QUICK, "--output", str(run.path)]) == 0
    before = run.summary()
    images = before["images"]
    assert train.main(["--resume", str(run.path), "--images", str(2 * images)]) == 0
    assert "evaluating it again" not in capsys.readouterr().out
    assert train.main([*QUICK, "--images", str(2 * images), "--output", str(whole.path)]) == 0
    after, expected = run.summary(), whole.summary()
    assert after["images"] == 2 * images
    assert after["reward_before"] == before["reward_before"]
    assert after["reward_after"] == expected["reward_after"] != before["reward_after"]
    rewards = [[row["rollout/reward_mean"] for row in each.metrics()] for each in (run, whole)]
    assert rewards[0] == rewards[1]
    assert run.settings.run.images == 2 * images  # and it goes on so
    capsys.readouterr()
    assert train.main(["--resume", str(run.path)]) == 0
    assert "it has ended: evaluating it again" in capsys.readouterr().out
    with pytest.raises(InvalidInputError, match=f"to be {2 * images} or more, .*got {images}"):
        train.main(["--resume", str(run.path), "--images", str(images)])


def test_branches_planned_over_a_run_are_not_extended(tmp_path: Path) -> None:
    arguments = [*QUICK, "--shaping", "b2", "--num-envs", "10", "--samples-per-prompt", "5"]
    arguments += ["--images", "10", "--output", str(tmp_path / "run")]
    assert train.main(arguments) == 0
    with pytest.raises(InvalidInputError, match="expected 10 images as at the run's start"):
        train.main(["--resume", str(tmp_path / "run"), "--images", "20"])


def test_tensorboard_has_every_evaluation_where_it_belongs(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train.main([*QUICK, "--eval-every", "2", "--output", str(run)]) == 0
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("eval/reward")] == [0, 8, 12]
    assert [event.step for event in events.Images("eval/pictures")] == [0, 8, 12]
    assert [event.step for event in events.Scalars("rollout/reward_mean")] == [4, 8, 12]
    summary = json.loads((run / "summary.json").read_text())
    assert events.Scalars("eval/reward")[-1].value == pytest.approx(summary["reward_after"])


def test_rounds_that_are_repeated_stand_once_in_tensorboard(tmp_path: Path) -> None:
    for done, steps in ((0, (4, 8, 12)), (4, (8, 12))):
        board = TensorBoard(tmp_path, done)
        for step in steps:
            board.write({"x": float(step + done)}, {"x": None}, step)
        board.close()
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("x")
    assert [(event.step, event.value) for event in events] == [(4, 4), (8, 12), (12, 16)]


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", 1.0), ("seed", 7), ("eta", 0.5), ("prompts", "emoji-captions")],
)
def test_a_run_goes_on_with_what_it_was_started_with(
    stopped: RunFolder, name: str, value: Any
) -> None:
    settings = json.loads(stopped.settings_file.read_text())
    stopped.settings_file.write_text(json.dumps(settings | {name: value}))
    before = {file: file.read_bytes() for file in stopped.path.rglob("*") if file.is_file()}
    with pytest.raises(DiffusionGymError, match=f"started with something else: {name} "):
        train.main(["--resume", str(stopped.path)])
    assert {file: file.read_bytes() for file in before} == before


def test_other_prompts_under_the_same_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\na dog\n")
    monkeypatch.chdir(tmp_path)
    arguments = [*QUICK, "--prompts", "prompts.txt", "--output", "run"]
    assert train.main(arguments) == 0
    file.write_text("a cat\na horse\n")
    monkeypatch.chdir("/")  # the file is found from anywhere
    with pytest.raises(DiffusionGymError, match="something else: prompts_sha256"):
        train.main(["--resume", str(tmp_path / "run")])


def test_one_process_at_a_time(stopped: RunFolder) -> None:
    with stopped.locked(), pytest.raises(DiffusionGymError, match="another process is training"):
        train.main(["--resume", str(stopped.path)])
    assert train.main(["--resume", str(stopped.path)]) == 0


@pytest.mark.parametrize("name", ["settings.json", "record.json", "metrics.csv", "before.npz"])
def test_damaged_files_are_found_before_anything_is_trained(stopped: RunFolder, name: str) -> None:
    file = stopped.path / name
    content = file.read_bytes()
    nonsense = b"a,b\n1,two\n" if name == "metrics.csv" else b"[" * 9000
    half = content[: len(content) // 2]  # of a table: the cut row is dropped
    for damaged in [nonsense] if name == "metrics.csv" else [b"", half, b"\0" * 100, nonsense]:
        file.write_bytes(damaged)
        with pytest.raises(DiffusionGymError, match=rf"{name}|record of a training run"):
            train.main(["--resume", str(stopped.path)])
    file.write_bytes(content + b"2.0,cut")
    assert len(stopped.metrics()) == 1


def test_a_folder_that_was_there_before_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir()
    (folder / ".settings.0123456789ab.partial.json").write_text("{")  # of a killed process
    monkeypatch.setattr("agents.runs.training.evaluate_run", _fails)
    with pytest.raises(RuntimeError, match="no evaluation"):
        train.main([*QUICK, "--output", str(folder)])
    assert folder.is_dir()
    assert not list(folder.glob("*.json"))
    with pytest.raises(RuntimeError, match="no evaluation"):
        train.main([*QUICK, "--output", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


def _fails(*arguments: Any) -> None:
    raise RuntimeError("no evaluation")


@pytest.mark.slow
def test_held_out_is_said_only_of_what_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for prompts, where in (("emoji-objects", "held-out"), ("emoji-objects:held_out", "training")):
        output = tmp_path / prompts
        arguments = [*QUICK, "--images", "4", "--prompts", prompts, "--output", str(output)]
        assert train.main(arguments) == 0
        assert f"2 {where} prompts" in capsys.readouterr().out


def test_checkpoints_are_due_by_time_as_well() -> None:
    class Agent:
        rounds = 1
        processes = Processes()

    saved: list[int] = []
    callback = Checkpoints(Path("nowhere"), every=100, minutes=10.0, keep=1, saved_round=0)
    callback.model = Agent()  # type: ignore[assignment]
    callback.save = lambda: saved.append(callback.model.rounds)  # type: ignore[method-assign]
    callback._on_rollout_start()
    assert saved == []
    callback.saved_at -= 10 * 60
    callback._on_rollout_start()
    assert saved == [1]


def test_training_in_a_thread(tmp_path: Path) -> None:
    status: list[int] = []
    arguments = [*QUICK, "--output", str(tmp_path / "run")]
    thread = threading.Thread(target=lambda: status.append(train.main(arguments)))
    thread.start()
    thread.join()
    assert status == [0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_save_and_say_how_to_go_on(number: signal.Signals, tmp_path: Path) -> None:
    output = tmp_path / "a run"
    process = Start("-m", "agents.train", *QUICK, "--images", 4000, "--output", output)
    for line in process.stdout:
        if line.startswith("round"):
            break
    process.send_signal(number)
    rest = process.stdout.read()
    assert process.wait() == 130
    assert f"--resume '{output}'" in rest
    run = RunFolder(output)
    assert run.checkpoint.name == f"round-{len(run.metrics()):06d}"


@pytest.mark.slow
def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path: Path) -> None:
    output = tmp_path / "run"
    command = [sys.executable, "-m", "agents.train", *QUICK, "--output", str(output)]
    reading, writing = os.pipe()
    process = subprocess.Popen(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    with contextlib.suppress(OSError):
        os.close(reading)
    assert process.stderr is not None
    errors = process.stderr.read()
    assert process.wait() == 0, errors
    assert (output / "summary.json").is_file()
    assert "Traceback" not in errors
    assert time.time() - (output / "summary.json").stat().st_mtime < 60


@pytest.mark.slow
def test_a_run_ends_where_it_has_drifted_far_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    limit = ["--eval-every", "1", "--max-kl"]
    assert train.main([*QUICK, *limit, "1e-9", "--output", str(run)]) == 0
    assert "ended after 4 images" in capsys.readouterr().out
    folder = RunFolder(run)
    assert folder.summary()["images"] == 4
    assert folder.exported.is_dir()
    # Continued, it finds what it found before; with a limit that is not met, it goes to the end.
    assert train.main(["--resume", str(run)]) == 0
    assert folder.summary()["images"] == 4
    assert train.main([*QUICK, *limit, "1e12", "--output", str(tmp_path / "far")]) == 0
    assert RunFolder(tmp_path / "far").summary()["images"] == 12


def test_a_limit_of_drift_needs_evaluations(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main([*QUICK, "--max-kl", "0.1"])
    assert "expected eval_every of at least 1" in capsys.readouterr().err
