"""What the figures of a run depend on, written down when it starts and compared when it goes on."""

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from agents.common.processes import current
from agents.runs.named_code import Origin
from agents.runs.own_parts import origins
from agents.runs.settings import TrainSettings
from diffusion_gym.envs import DiffusionT2IVectorEnv
from diffusion_gym.errors import InvalidInputError, one_line, shown
from diffusion_gym.rewards.base import wants_metadata
from diffusion_gym.rewards.registry import by_name, is_remote

PACKAGES = (
    *("diffusion-gym", "torch", "diffusers", "transformers", "peft", "gymnasium"),
    "stable-baselines3",
)

MOVABLE = (
    *("output", "device", "checkpoint_every", "checkpoint_minutes", "keep_checkpoints"),
    *("picture_every", "picture_prompts", "wandb"),
)
"""Settings that may change between the parts of a run: they change no figure."""

MOVABLE_OPTIONS = ("url", "timeout", "retries", "backoff")
"""Options of a reward on other machines that may change likewise: what is served is compared."""

GROWING = ("images",)
"""Settings that may grow: what is there already stays as it is."""


def describe(base: DiffusionT2IVectorEnv, settings: TrainSettings) -> dict[str, Any]:
    """What a run is made of and where it runs, as JSON has it."""
    reads_metadata = wants_metadata(base.reward_function)
    code = {name: own._asdict() for name, own in origins(settings.flat()).items()}
    return {
        "settings": settings.flat(),
        "code": code,
        "model": {"name": base.model.name, "weights_sha256": base.model.weights_hash},
        "reward": {"name": base.reward_function.name, "version": base.reward_function.version},
        "prompts_sha256": base.prompts.content_hash,
        "metadata_sha256": base.prompts.metadata_hash if reads_metadata else None,
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
        InvalidInputError: Settings, code, model, reward or prompts differ; the message names what
            does.
    """
    now = json.loads(json.dumps(now))  # as the other was read from a file
    try:
        # What there was no setting for yet was as that setting's default has it.
        was = _comparable(TrainSettings().flat() | recorded["settings"])
        is_now = _comparable(now["settings"])
        differ = [
            f"{name} ({shown(was[name])}, now {shown(value)})"
            for name, value in is_now.items()
            if name not in MOVABLE
            and was[name] != value
            and not (name in GROWING and value > was[name])
        ]
        differ += changed_code(recorded, {k: Origin(**v) for k, v in now["code"].items()})
        recorded = {"metadata_sha256": None} | recorded  # older runs had none
        for what in ("model", "reward", "prompts_sha256", "metadata_sha256"):
            if recorded[what] != now[what]:
                differ.append(f"{what} ({shown(recorded[what])}, now {shown(now[what])})")
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidInputError(
            f"expected the record of a training run, got one that is damaged or of another "
            f"version ({type(error).__name__}: {error})"
        ) from error
    if differ:
        raise InvalidInputError(
            f"the run was started with something else: {'; '.join(differ)}. A run goes on with "
            "what it was started with; start another to change it"
        )


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without where a reward's servers are, and how patiently they are asked."""
    reward, options = by_name(settings["reward"], settings["reward_options"] or {})
    kept = {
        name: {option: own[option] for option in own if option not in MOVABLE_OPTIONS}
        if is_remote(name)
        else own
        for name, own in options.items()
    }
    return {**settings, "reward": reward, "reward_options": kept}


def changed_code(recorded: dict[str, Any], now: Mapping[str, Origin]) -> list[str]:
    """The code that has changed since it was recorded, in words.

    Args:
        recorded: From `describe`, when the run was started.
        now: From `agents.runs.own_parts.origins`.
    """
    was = recorded.get("code", {})
    return [
        f"the code of {one_line(name)} ({one_line(str(is_now.file))} has changed since)"
        for name, is_now in now.items()
        if name in was and was[name]["sha256"] != is_now.sha256
    ]


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
