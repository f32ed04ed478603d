"""What all tests of agents use."""

import pytest

from diffusion_gym.models import DiffusionModel, load_model
from diffusion_gym.rewards import RewardFunction, make_reward


@pytest.fixture(scope="session", autouse=True)
def held() -> tuple[DiffusionModel, list[RewardFunction]]:
    """The embedded model and its judges, read once: networks that somebody holds are shared."""
    return load_model(), [make_reward(name) for name in ("scene_alignment", "clip_score")]
