"""Malformed inputs on every surface: each is refused in words, or means something and is obeyed.

A table of cases stands before each surface's tests; a test tries one field's whole set, and reports
all violations at once.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from nonsense import NONSENSE, Judge

import diffusion_gym
from diffusion_gym.envs import DiffusionT2IEnv, DiffusionT2IVectorEnv, EnvConfig
from diffusion_gym.models import DiffusionModel

TINY = {"num_inference_steps": 2, "reward": "jpeg_compressibility", "device": "cpu"}


@pytest.fixture(scope="module", autouse=True)
def model() -> DiffusionModel:
    """Held, so that no environment reads it again."""
    return diffusion_gym.load_model()


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths, "x" among them, lead nowhere."""
    monkeypatch.chdir(tmp_path)


# ---------------------------------------------------------------------------------- construction


@dataclasses.dataclass(frozen=True)
class Field:
    """What of the nonsense a field takes, and how to read what was made of it.

    Attributes:
        read: What the field's owner has now.
        accepted: What is read by the names of the nonsense; the rest is refused.
    """

    read: Callable[[Any], Any]
    accepted: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def config_of(name: str) -> Callable[[Any], Any]:
    return lambda env: getattr(env.config, name)


STEPS = {"1": 1, "np.int64(2)": 2}
NUMBERS_ABOVE_0 = {
    "1": 1.0,
    "1.5": 1.5,
    "10**30": 1e30,
    "Fraction": 1.5,
    "np.int64(2)": 2.0,
    "np.float64(1.5)": 1.5,
}
NUMBERS_FROM_0 = NUMBERS_ABOVE_0 | {"0": 0.0}

ENV_FIELDS: Mapping[str, Field] = {
    "model": Field(config_of("model")),
    "model_options": Field(config_of("model_options"), {"None": None, "{}": {}}),
    "prompts": Field(config_of("prompts"), {"None": "emoji-objects"}),
    "reward": Field(config_of("reward"), {"None": "house_style"}),
    "reward_options": Field(config_of("reward_options"), {"None": None, "{}": {}}),
    "num_inference_steps": Field(lambda env: env.schedule.num_steps, {"None": 10, **STEPS}),
    "sampler": Field(lambda env: env.schedule.sampler, {"None": "ddim"}),
    "eta": Field(lambda env: env.schedule.eta, {"None": 1.0, "0": 0.0, "1": 1.0}),
    "device": Field(config_of("device")),
    "dtype": Field(config_of("dtype")),
    "render_mode": Field(lambda env: env.render_mode, {"None": None}),
}
VECTOR_FIELDS: Mapping[str, Field] = ENV_FIELDS | {
    "num_envs": Field(
        lambda env: (env.num_envs, env.reset()[0]["latent"].shape[0]),
        {"1": (1, 1), "np.int64(2)": (2, 2)},
    ),
    "array_type": Field(lambda env: env.array_type),
    "autoreset_mode": Field(lambda env: env.autoreset_mode.value),
}


def test_every_field_of_the_environment_is_tried() -> None:
    assert {field.name for field in dataclasses.fields(EnvConfig)} <= set(ENV_FIELDS)


def try_field(name: str, field: Field, make: Callable[[Any], Any], leave_out: Any = ()) -> None:
    """Refused, or read back as the table says; for the whole of the nonsense."""
    judge = Judge()
    for label, value in NONSENSE.items():
        case = f"{name}={label}"
        if label in leave_out:
            continue
        if label in field.accepted:
            judge.obeyed(case, lambda v=value: field.read(make(v)), field.accepted[label])
        else:
            judge.refused(case, lambda v=value: make(v))
    judge.settle()


@pytest.mark.parametrize("name", VECTOR_FIELDS)
def test_the_vector_environment(name: str) -> None:
    try_field(
        name, VECTOR_FIELDS[name], lambda value: DiffusionT2IVectorEnv(**(TINY | {name: value}))
    )


@pytest.mark.parametrize("name", ENV_FIELDS)
def test_the_single_environment(name: str) -> None:
    try_field(name, ENV_FIELDS[name], lambda value: DiffusionT2IEnv(**(TINY | {name: value})))
