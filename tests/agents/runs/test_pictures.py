"""Pictures of held-out prompts while a run trains."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents import train
from agents.runs.builders import load_evaluation
from agents.runs.callbacks import StopOnSignal
from agents.runs.pictures import (
    COLUMNS,
    LONGEST_SIDE,
    PROMPTS,
    HeldOutPictures,
    Pictures,
    _small,
    save_pictures,
)
from agents.runs.run_folder import RunFolder
from agents.runs.training import Training
from diffusion_gym.errors import InvalidInputError

QUICK = (
    "--images 16 --num-envs 4 --samples-per-prompt 2 --num-inference-steps 2 --eval-prompts 7 "
    "--eval-samples 1 --lora-rank 2 --reward jpeg_compressibility --also jpeg_compressibility "
    "--learning-rate 1e-2 --picture-prompts 5 --checkpoint-every 1"
).split()
"""Options of a run of four rounds."""

FIGURES = ("rollout/", "train/", "count/", "credit/")
"""What the columns begin with that are the same in two equal runs."""


class Drawn:
    """Counts what is drawn for pictures alone, and looks at the random numbers around it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rounds: list[int] = []
        self.training: Training | None = None
        original, show = HeldOutPictures.draw, Training._show

        def draw(pictures: HeldOutPictures, policy: Any) -> Pictures:
            before = self.random_state()
            evaluations = policy.denoiser_evaluations
            drawn = original(pictures, policy)
            assert policy.denoiser_evaluations == evaluations
            for was, now in zip(before, self.random_state(), strict=True):
                assert was == now
            assert self.training is not None
            self.rounds.append(self.training.agent.rounds)
            return drawn

        def remember(training: Training, evaluation: Any) -> None:
            self.training = training
            show(training, evaluation)

        monkeypatch.setattr(HeldOutPictures, "draw", draw)
        monkeypatch.setattr(Training, "_show", remember)

    def random_state(self) -> list[bytes]:
        """Of Python, NumPy, torch, the policy, the agent and the environment."""
        assert self.training is not None
        agent = self.training.agent
        base = agent.base_env
        generators = (torch.default_generator, agent.policy.generator, agent.shuffle_generator)
        return [
            repr(random.getstate()).encode(),
            repr(np.random.get_state()).encode(),
            repr(agent.prompt_rng.bit_generator.state).encode(),
            repr([each.bit_generator.state for each in base.np_random]).encode(),
            *(generator.get_state().numpy().tobytes() for generator in generators),
        ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same run without pictures, with them in every round, and with evaluations as well."""
    folder = tmp_path_factory.mktemp("runs")
    options = {
        "bare": ["--picture-every", "0"],
        "drawn": ["--picture-every", "1"],
        "evaluated": ["--picture-every", "1", "--eval-every", "2"],
    }
    found: dict[str, Any] = {}
    for name, extra in options.items():
        with pytest.MonkeyPatch.context() as patch:
            drawn = Drawn(patch)
            assert train.main([*QUICK, *extra, "--output", str(folder / name)]) == 0
            found[name] = RunFolder(folder / name), drawn.rounds
    return found


def sheet(run: RunFolder, number: int) -> Any:
    with Image.open(run.pictures / f"round-{number:06d}.png") as picture:
        return np.asarray(picture).astype(int), picture.info[PROMPTS].splitlines()


@pytest.mark.slow
def test_drawing_changes_no_figure_and_no_weight(runs: dict[str, Any]) -> None:
    (bare, _), (drawn, _) = runs["bare"], runs["drawn"]
    rows = [
        [{k: v for k, v in row.items() if k.startswith(FIGURES)} for row in run.metrics()]
        for run in (bare, drawn)
    ]
    assert len(rows[0]) == 4
    assert len(rows[0][0]) > 20
    assert repr(rows[0]) == repr(rows[1])  # NaN equals NaN so
    weights = [load_file(run.checkpoint / "weights.safetensors") for run in (bare, drawn)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not bare.pictures.exists()
    assert "pictures" not in EventAccumulator(str(bare.tensorboard)).Reload().Tags()["images"]


@pytest.mark.slow
def test_what_an_evaluation_has_drawn_is_not_drawn_again(runs: dict[str, Any]) -> None:
    assert runs["bare"][1] == []
    assert runs["drawn"][1] == [1, 2, 3]
    assert runs["evaluated"][1] == [1, 3]
    # And it is the same, but for what another batch size rounds.
    for number in range(5):
        one, other = (sheet(runs[name][0], number)[0] for name in ("drawn", "evaluated"))
        assert np.abs(one - other).max() <= 2


@pytest.mark.slow
def test_pictures_are_where_they_belong(runs: dict[str, Any]) -> None:
    run = runs["drawn"][0]
    assert sorted(path.name for path in run.pictures.iterdir()) == [
        f"round-{number:06d}.png" for number in range(5)
    ]
    events = EventAccumulator(str(run.tensorboard), {"images": 0}).Reload()
    assert [event.step for event in events.Images("pictures")] == [0, 4, 8, 12, 16]
    pixels, prompts = sheet(run, 4)
    after = load_evaluation(run.after_file)
    chosen = [after.prompts.index(prompt) for prompt in prompts]
    assert len(chosen) == 5
    assert {0, len(after.prompts) - 1} <= set(chosen)  # spread over all
    side, gap = after.images.shape[2], 2
    for place, k in enumerate(chosen):
        top, left = (part * (side + gap) for part in divmod(place, COLUMNS))
        shown = pixels[top : top + side, left : left + side]
        np.testing.assert_array_equal(shown, after.images[k, 0])
    first, _ = sheet(run, 0)
    assert np.abs(first - pixels).max() > 2  # it has learned


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_same_prompts_and_noise(
    runs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    original = StopOnSignal._on_rollout_start

    def ask(callback: StopOnSignal) -> None:
        asked.append(1)
        callback.asked = len(asked) == 2
        original(callback)

    run, whole = RunFolder(tmp_path / "run"), runs["drawn"][0]
    with monkeypatch.context() as patch:
        patch.setattr(StopOnSignal, "_on_rollout_start", ask)
        arguments = [*QUICK, "--picture-every", "1", "--output", str(run.path)]
        assert train.main(arguments) == 130
    assert len(list(run.pictures.iterdir())) == 1  # of a round that is not drawn there is none
    assert train.main(["--resume", str(run.path)]) == 0
    for number in range(5):
        (ours, prompts), (theirs, expected) = sheet(run, number), sheet(whole, number)
        np.testing.assert_array_equal(ours, theirs)
        assert prompts == expected


def test_large_pictures_are_shrunk_and_any_prompt_is_written(tmp_path: Path) -> None:
    prompts = ["a <b>cat</b>", "two\nlines\x00", "half of a pair \ud83d", "一只猫"]
    images = np.zeros((4, 8, 8, 3), np.uint8)
    save_pictures(Pictures(images, prompts), tmp_path / "pictures" / "round-000001.png")
    (file,) = (tmp_path / "pictures").iterdir()
    with Image.open(file) as picture:
        assert len(picture.info[PROMPTS].splitlines()) == 4
        assert picture.info[PROMPTS].endswith("一只猫")

    tall = np.random.default_rng(0).integers(0, 255, (2, 1024, 512, 3), dtype=np.uint8)
    assert _small(tall).shape == (2, LONGEST_SIDE, LONGEST_SIDE // 2, 3)
    assert _small(images) is images


def test_something_else_in_the_place_of_the_pictures(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.pictures.write_text("mine")
    with pytest.raises(InvalidInputError, match="expected a folder to write to"):
        run.check_writable()
