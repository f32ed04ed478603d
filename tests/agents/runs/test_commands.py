import json
import re
import sys
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starts import Start

from agents import evaluate, report, sample, train
from agents.runs import cli
from agents.runs.methods import METHODS
from agents.runs.run_folder import RunFolder
from agents.runs.settings import TrainSettings
from diffusion_gym.errors import DiffusionGymError

QUICK = (
    "--images 8 --num-envs 4 --samples-per-prompt 2 --num-inference-steps 3 --eval-prompts 3 "
    "--eval-samples 2"
).split()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "quick"
    assert train.main([*QUICK, "--lora-rank", "2", "--output", str(folder)]) == 0
    return folder


def test_a_run_leaves_what_it_promises(run: Path) -> None:
    names = {entry.name for entry in run.iterdir()}
    assert names >= {
        *("settings.json", "record.json", "metrics.csv", "summary.json", "before.npz"),
        *("before_after.png", "reward_curve.png", "checkpoints", "exported", "tensorboard"),
        *("after.npz", "report.html", "pictures"),
    }
    assert not [name for name in names if "partial" in name]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["images"] == 8
    assert summary["prompts"] == 3
    assert summary["difference_low"] <= summary["difference"] <= summary["difference_high"]
    assert set(summary["other_rewards"]) == {
        "clip_score",
        "scene_alignment",
        "jpeg_compressibility",
    }
    drift = summary["metrics"]["kl_to_base"]
    assert drift["before"] < 1e-9 < drift["after"]
    (record,) = json.loads((run / "record.json").read_text())["parts"]
    assert len(record["model"]["weights_sha256"]) == 64
    settings = json.loads((run / "settings.json").read_text())
    assert settings["lora_rank"] == 2
    assert settings["learning_rate"] == METHODS["noise-aware"].embedded["learning_rate"]
    with Image.open(run / "before_after.png") as picture:
        assert picture.width > 500
    assert list((run / "tensorboard").iterdir())


@pytest.mark.slow
def test_evaluations_during_training_change_nothing(tmp_path: Path) -> None:
    runs = [RunFolder(tmp_path / name) for name in ("plain", "watched")]
    for run, extra in zip(runs, ([], ["--eval-every", "2"]), strict=True):
        assert train.main([*QUICK, *extra, "--output", str(run.path)]) == 0
    plain, watched = (run.metrics() for run in runs)
    assert "eval/reward" in watched[0]
    assert "eval/other_rewards/clip_score" in watched[0]
    assert "eval/reward" not in watched[1]
    for before, after in zip(plain, watched, strict=True):
        assert after["rollout/reward_mean"] == before["rollout/reward_mean"]


def test_sample_draws_from_the_run_and_from_its_base(run: Path, tmp_path: Path) -> None:
    pictures = []
    for extra in ([], ["--base"], []):
        output = tmp_path / f"{len(pictures)}.png"
        arguments = [str(run), "--prompt", "a cat", "--prompt", "a dog", "--samples", "3", *extra]
        assert sample.main([*arguments, "--output", str(output)]) == 0
        with Image.open(output) as picture:
            assert picture.size == (3 * 64 * 2, 2 * 64 * 2)
            pictures.append(np.asarray(picture))
    np.testing.assert_array_equal(pictures[0], pictures[2])
    assert (pictures[0] != pictures[1]).any()


def test_sample_films_what_it_draws(run: Path, tmp_path: Path) -> None:
    output, film = tmp_path / "sheet.png", tmp_path / "film.gif"
    arguments = [str(run), "--prompt", "a cat", "--samples", "2", "--output", str(output)]
    assert sample.main([*arguments, "--film", str(film)]) == 0
    with Image.open(output) as sheet, Image.open(film) as steps:
        assert steps.n_frames == 4  # type: ignore[attr-defined]  # noise, then three steps
        assert steps.size == sheet.size
        apart = []
        for number in (0, 3):
            steps.seek(number)
            shown = np.asarray(steps.convert("RGB"), float)
            apart.append(np.abs(shown - np.asarray(sheet, float)).mean())
    assert apart[1] < 8 < 20 < apart[0]
    with pytest.raises(DiffusionGymError, match="expected a film's name"):
        sample.main([*arguments, "--film", str(tmp_path / "film.png")])


def test_evaluate_repeats_the_runs_own_figures(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    arguments = [str(run), "--count", "3", "--samples", "2", "--json", str(figures)]
    assert evaluate.main([*arguments, "--pictures", str(tmp_path / "grid.png")]) == 0
    summary = json.loads((run / "summary.json").read_text())
    measured = json.loads(figures.read_text())
    assert measured["before"] == pytest.approx(summary["reward_before"], abs=1e-5)
    assert measured["after"] == pytest.approx(summary["reward_after"], abs=1e-5)
    for group in ("other_rewards", "metrics"):
        assert list(measured[group]) == list(summary[group])
        for name, known in summary[group].items():
            assert measured[group][name]["after"] == pytest.approx(known["after"], rel=1e-4)
            assert measured[group][name]["difference"] == pytest.approx(
                known["difference"], rel=1e-2, abs=1e-5
            )
    assert (tmp_path / "grid.png").exists()
    output = capsys.readouterr().out
    for name in ("house_style", "other rewards", "diversity/clip", "kl_to_base"):
        assert name in output


def test_evaluate_with_another_reward(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(run), "--count", "2", "--samples", "1", "--reward", "clip_score"]
    assert evaluate.main([*arguments, "--also", "jpeg_incompressibility"]) == 0
    output = capsys.readouterr().out
    assert output.index("clip_score") < output.index("jpeg_incompressibility")
    assert "house_style" in output  # it was trained on
    assert "scene_alignment" not in output
    assert "diversity" not in output.replace("diversity and drift", "")  # of one image per prompt


def test_prompts_without_a_held_out_part_are_evaluated_on_themselves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\na dog\n")
    output = tmp_path / "run"
    assert train.main([*QUICK, "--prompts", str(file), "--output", str(output)]) == 0
    assert "2 training prompts" in capsys.readouterr().out


def test_prompts_beyond_the_grammar_say_which_rewards_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a unicycle in the rain\n")
    arguments = ["--prompts", str(file), "--reward", "jpeg_compressibility"]
    output = tmp_path / "run"
    assert train.main([*QUICK, *arguments, "--output", str(output)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "scene_alignment left out: it cannot read these prompts" in printed
    assert list(json.loads((output / "summary.json").read_text())["other_rewards"]) == [
        "clip_score"
    ]


@pytest.mark.parametrize("shaping", sorted(METHODS))
def test_every_shaping_trains_and_records_its_credit(shaping: str, tmp_path: Path) -> None:
    few = "--images 10 --num-envs 10 --num-inference-steps 3 --eval-prompts 2 --eval-samples 1"
    group = "--samples-per-prompt 5 --lora-rank 2"
    arguments = [*few.split(), *group.split(), "--shaping", shaping]
    assert train.main([*arguments, "--output", str(tmp_path / "run")]) == 0
    (row,) = RunFolder(tmp_path / "run").metrics()
    credit = [value for name, value in row.items() if name.startswith("credit/step_")]
    assert len(credit) == 3
    assert sum(credit) == pytest.approx(1, abs=1e-5)
    assert (credit == [0, 0, 1]) == (shaping in ("sparse", "b2"))
    assert (tmp_path / "run" / "credit_per_step.png").exists()
    assert TrainSettings.of(shaping="b2").ppo.clip_range == 0.1


def test_every_setting_is_explained_by_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["--help"])
    text = capsys.readouterr().out
    for name in TrainSettings.kinds():
        assert f"--{name.replace('_', '-')} " in text or f"--{name.replace('_', '-')}," in text
    for part in TrainSettings.parts().values():
        assert set(cli.explanations(part)) == set(typing.get_type_hints(part))
    assert not re.findall(r"\bSTR\b|\{None", text)  # of one kind with the other options


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("command", [train, sample, evaluate, report])
def test_help_breaks_no_word(
    command: Any, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        command.main(["--help"])
    text = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert max(map(len, text.splitlines())) <= width
    described = text.partition("╭")[0].partition("\n")[2]
    assert len(described.split()) > 8
    assert "``" not in described


def test_help_shows_the_defaults_of_what_is_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, rate in (([], "0.0001"), (["--shaping", "coca"], "5e-05")):
        with pytest.raises(SystemExit):
            train.main([*arguments, "--help"])
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert f"AdamW's rate. (default: {rate})" in text


BAD: list[tuple[list[str], str]] = [
    (["--reward", "beauty"], "unknown reward 'beauty'; known: .*clip_score.*house_style"),
    (["--model", "emoji-65"], "unknown model 'emoji-65'.*emoji-64"),
    (["--prompts", "animals!"], "unknown prompt set 'animals!'.*emoji-objects"),
    (["--num-inference-steps", "1001"], "1001"),
    (["--device", "cuda:7"], "device 'cuda:7'"),
    (["--samples-per-prompt", "7"], "divide num_envs"),
    (["--eta", "0"], "eta"),
    (
        ["--shaping", "dense"],
        "unknown shaping 'dense'; known: b2, b2\\+coca, b2\\+noise-aware, (b2-branch, )?coca,",
    ),
    (["--shaping", "b2"], "num_envs"),
    (["--samples-per-prompt", "1"], "a group of its own"),
    (["--prompts", "prompts.txt"], "prompts.txt does not exist"),
    (["--model", "somewhere/else"], "somewhere/else.*neither an embedded model"),
    (["--output", "/proc/nothing/here"], "run folder that can be written to"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: str(value)[:24])
def test_mistakes_leave_nothing_behind(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DiffusionGymError, match=message):
        train.main([*QUICK, *arguments])
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_that_the_reward_cannot_read_leaves_nothing_behind(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a gloomy castle\nthe sea at night\n")
    with pytest.raises(DiffusionGymError, match="gloomy castle"):
        train.main([*QUICK, "--prompts", str(prompts), "--output", str(tmp_path / "run")])
    assert list(tmp_path.iterdir()) == [prompts]


def test_a_folder_in_use_is_left_alone(run: Path) -> None:
    with pytest.raises(DiffusionGymError, match="--resume"):
        train.main([*QUICK, "--output", str(run)])
    with pytest.raises(DiffusionGymError, match=r"--images of a resumed run to be \d+ or more"):
        train.main(["--resume", str(run), "--images", "4"])
    with pytest.raises(DiffusionGymError, match=r"keeps its settings.*--seed"):
        train.main(["--resume", str(run), "--seed", "4"])
    with pytest.raises(DiffusionGymError, match=r"has no settings\.json"):
        sample.main([str(run.parent), "--prompt", "a cat"])


@pytest.mark.slow
def test_a_mistake_on_the_command_line_ends_without_a_traceback() -> None:
    process = Start("-m", "agents.train", "--reward", "beauty")
    assert process.wait() == 2
    printed, errors = process.rest()
    assert printed == ""
    assert errors.startswith("error: unknown reward 'beauty'")
    assert "Traceback" not in errors


@pytest.mark.parametrize("command", [sample, evaluate])
def test_other_commands_report_mistakes_the_same_way(
    command: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", str(tmp_path), "--prompt", "a cat"])
    if command is evaluate:
        sys.argv[2:] = []
    with pytest.raises(SystemExit) as ended:
        cli.run(command.main)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: expected the folder of a training run")
