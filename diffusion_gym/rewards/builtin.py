"""The rewards that come with the package.

Networks are loaded when a reward is made, once per process and device.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from diffusion_gym.rewards.base import RewardFunction
from diffusion_gym.rewards.clip_score import ClipScore
from diffusion_gym.rewards.house_style import HouseStyle
from diffusion_gym.rewards.jpeg import JpegSize
from diffusion_gym.rewards.scene_alignment import SceneAlignment
from diffusion_gym.rewards.scene_verifier import SceneVerifier, load_verifier


def _embedded(part: str) -> Path:
    # Imported here so that registering a reward does not wait for diffusers.
    from diffusion_gym.models import emoji64_folder

    return emoji64_folder() / part


def _verifier(device: str) -> SceneVerifier:
    return load_verifier(_embedded("verifier"), device)


BUILT_IN: Mapping[str, Callable[[str], RewardFunction]] = {
    "clip_score": lambda device: ClipScore(_embedded("clip"), device),
    "house_style": lambda device: HouseStyle(_verifier(device)),
    "jpeg_compressibility": lambda device: JpegSize(-1),
    "jpeg_incompressibility": lambda device: JpegSize(+1),
    "scene_alignment": lambda device: SceneAlignment(_verifier(device)),
}
"""What makes each reward, for a device such as ``"cpu"`` or ``"cuda:0"``."""
