"""The command that repeats a run."""

import json
from collections.abc import Mapping
from typing import Any

from agents.runs.screen import command
from agents.runs.settings import TrainSettings
from diffusion_gym.errors import InvalidInputError

DECISIVE = ("algorithm", "preset", "model", "reward", "shaping", "device")
"""Settings that decide what the others' defaults are."""

NOT_USUAL = object()

OF_THE_PLACE = ("output", "wandb")
"""Settings that say where to, and not what."""


def repeating_command(settings: TrainSettings, processes: int = 1) -> str:
    """The command of a new run like this one, with the options that are not what it has anyway.

    Args:
        settings: The run's.
        processes: How many trained together.
    """
    own = settings.flat()
    decisive: dict[str, Any] = {}
    try:
        for name in DECISIVE:
            if own[name] != TrainSettings.of(**decisive).flat()[name]:
                decisive[name] = own[name]
        usual = TrainSettings.of(**decisive).flat()
    except InvalidInputError:  # a preset's file, or a registered name, that there is no more
        decisive, usual = {}, {"preset": own.pop("preset")}
    words = ["python", "-m", "agents.train"]
    if processes > 1:
        words = ["torchrun", "--nproc-per-node", str(processes), *words[1:]]
    for name, value in own.items():
        if name not in OF_THE_PLACE and (name in decisive or usual.get(name, NOT_USUAL) != value):
            words += option(name, value)
    return command(words)


def option(name: str, value: Any) -> list[str]:
    """A setting as words of the command line, which reads them as exactly this value."""
    flag = f"--{name.replace('_', '-')}"
    if name == "from_run":
        return [] if value is None else [flag, value]
    if name == "callback":
        return [word for own in value for word in (flag, own)]
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if value is None:
        return [flag, "none"]
    if isinstance(value, Mapping | list | tuple):
        return [flag, json.dumps(value)]
    text = repr(value) if isinstance(value, float) else str(value)
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]
