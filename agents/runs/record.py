"""What the figures of a run depend on, written down when it starts and compared when it goes on."""

import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from agents.common.processes import current
from agents.runs.settings import TrainSettings
from diffusion_gym.envs import DiffusionT2IVectorEnv
from diffusion_gym.errors import InvalidInputError, shown

PACKAGES = (
    *("diffusion-gym", "torch", "diffusers", "transformers", "peft", "gymnasium"),
    "stable-baselines3",
)

MOVABLE = (
    *("output", "device", "checkpoint_every", "checkpoint_minutes", "keep_checkpoints"),
    *("picture_every", "picture_prompts", "wandb"),
)
"""Settings that may change between the parts of a run: they change no figure."""

GROWING = ("images",)
"""Settings that may grow: what is there already stays as it is."""


def describe(base: DiffusionT2IVectorEnv, settings: TrainSettings) -> dict[str, Any]:
    """What a run is made of and where it runs, as JSON has it."""
    return {
        "settings": settings.flat(),
        "model": {"name": base.model.name, "weights_sha256": base.model.weights_hash},
        "reward": {"name": base.reward_function.name, "version": base.reward_function.version},
        "prompts_sha256": base.prompts.content_hash,
        "versions": {name: version(name) for name in PACKAGES},
        "commit": _commit(),
        "command": sys.argv,
        "device": _device(base.device),
        "processes": current().count,
        "python": platform.python_version(),
    }


def check_same(recorded: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuses to go on with a run that is made of something else than it was.

    Args:
        recorded: From `describe`, when the run was started.
        now: From `describe`, of what would go on.

    Raises:
        InvalidInputError: Settings, model, reward or prompts differ; the message names what does.
    """
    now = json.loads(json.dumps(now))  # as the other was read from a file
    try:
        # What there was no setting for yet was as that setting's default has it.
        was, is_now = TrainSettings().flat() | recorded["settings"], now["settings"]
        differ = [
            f"{name} ({shown(was[name])}, now {shown(value)})"
            for name, value in is_now.items()
            if name not in MOVABLE
            and was[name] != value
            and not (name in GROWING and value > was[name])
        ]
        for what in ("model", "reward", "prompts_sha256"):
            if recorded[what] != now[what]:
                differ.append(f"{what} ({shown(recorded[what])}, now {shown(now[what])})")
    except (KeyError, TypeError) as error:
        raise InvalidInputError(
            f"expected the record of a training run, got one that is damaged or of another "
            f"version ({type(error).__name__}: {error})"
        ) from error
    if differ:
        raise InvalidInputError(
            f"the run was started with something else: {'; '.join(differ)}. A run goes on with "
            "what it was started with; start another to change it"
        )


def _device(device: torch.device) -> str:
    if device.type != "cuda":
        return f"{device} ({platform.processor() or platform.machine()})"
    return f"{device} ({torch.cuda.get_device_name(device)})"


def _commit() -> str | None:
    """The checkout's commit, with a mark where it has been changed; None outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
