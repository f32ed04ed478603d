"""What `DiffusionPPO` refuses to train on."""

from pathlib import Path
from typing import Any

import gymnasium
import pytest

import diffusion_gym  # noqa: F401 (registers the environment)
from agents.common.arguments import check_noise
from agents.common.sb3_vec_env import SB3VecEnv
from diffusion_gym.errors import InvalidInputError


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_inference_steps": 3, "eta": 0.0}, "eta is 0"),
        ({"num_inference_steps": 1}, "the only step is the last, which adds no noise"),
    ],
)
def test_why_there_is_nothing_to_train_on(
    sdxl_folder: Path, options: dict[str, Any], reason: str
) -> None:
    envs = gymnasium.make_vec(
        "DiffusionT2I-v0", num_envs=1, model=str(sdxl_folder), array_type="torch", **options
    )
    with pytest.raises(InvalidInputError, match=f"no step of this environment .*{reason}"):
        check_noise(SB3VecEnv(envs))
    envs.close()
