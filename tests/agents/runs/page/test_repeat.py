"""The command that repeats a run gives exactly its settings."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from agents.runs.own_parts import use
from agents.runs.page.repeat import repeating_command
from agents.runs.settings import TrainSettings
from agents.train import read_settings

OPTIONS: list[dict[str, Any]] = [
    {},
    {"shaping": "coca", "seed": 7, "images": 128},
    {"algorithm": "nft", "reward": "jpeg_compressibility", "eval_every": 3},
    {"learning_rate": 1.2345678901e-05, "eta": 0.1 + 0.2, "mask_last": True},
    {
        "reward": {"clip_score": 0.3, "house_style": 1.0},
        "prompts": ["a cat", "-x, 'y' \"z\" $HOME"],
    },
    {"preset": "ddpo-compressibility"},
    {"num_envs": 64, "updates_per_round": 2},
    {"num_envs": 64, "updates_per_round": 2, "images": 256},
    {"num_envs": 32},
    {"also": ["clip_score"], "stochastic_steps": [0, 2], "lora_rank": 4, "lora_targets": ["to_q"]},
    {"prompts": "animals", "guidance": 5.0, "noise_exponent": 0.0, "max_kl": 0.5, "eval_every": 1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_it_is_read_as_the_same_settings(options: dict[str, Any]) -> None:
    settings = TrainSettings.of(**options)
    words = shlex.split(repeating_command(settings))
    assert words[:3] == ["python", "-m", "agents.train"]
    assert read_settings(words[3:]).flat() == settings.flat()


def test_a_start_and_callbacks_are_written_as_they_are_typed(tmp_path: Path) -> None:
    code = tmp_path / "own.py"
    code.write_text(
        "from stable_baselines3.common.callbacks import BaseCallback\n"
        "class One(BaseCallback):\n    def _on_step(self): return True\n"
        "class Two(One): pass\n"
    )
    callbacks = [f"{code}:One", f"{code}:Two"]
    use({"callback": callbacks})
    settings = TrainSettings.of(from_run="/runs/a run", callback=callbacks)
    words = shlex.split(repeating_command(settings))[3:]
    assert words[words.index("--from-run") + 1] == "/runs/a run"
    assert [words[k + 1] for k, word in enumerate(words) if word == "--callback"] == callbacks


def test_it_names_what_is_not_usual_and_nothing_else() -> None:
    assert repeating_command(TrainSettings.of()) == "python -m agents.train"
    told = repeating_command(TrainSettings.of(shaping="coca", seed=3, output="x", wandb="y"))
    assert told == "python -m agents.train --shaping coca --seed 3" or told == (
        "python -m agents.train --seed 3 --shaping coca"
    )
    several = repeating_command(TrainSettings.of(), 4)
    assert several == "torchrun --nproc-per-node 4 -m agents.train"


def test_a_preset_whose_file_is_gone_is_written_out(tmp_path: Path) -> None:
    preset = tmp_path / "mine.toml"
    preset.write_text("images = 64\nseed = 5\n")
    settings = TrainSettings.of(preset=str(preset))
    assert str(preset) in repeating_command(settings)
    preset.unlink()
    words = shlex.split(repeating_command(settings))
    read = read_settings(words[3:]).flat()
    assert read == settings.flat() | {"preset": None}
