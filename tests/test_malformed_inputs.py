"""Malformed inputs on every surface: each is refused in words, or means something and is obeyed.

A table of cases stands before each surface's tests; a test tries one field's whole set, and reports
all violations at once.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from nonsense import NONSENSE, UNCOPYABLE, Judge, all_but

import diffusion_gym
from agents.common import save_checkpoint
from agents.policy.config import PolicyConfig
from agents.policy.optimizers import make_optimizer
from agents.ppo import DiffusionPPO
from agents.ppo.config import PPOConfig
from diffusion_gym.envs import DiffusionT2IEnv, DiffusionT2IVectorEnv, EnvConfig
from diffusion_gym.models import DiffusionModel, ModelOptions

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
    "stochastic_steps": Field(config_of("stochastic_steps"), {"None": None}),
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
            judge.obeyed(case, field.accepted[label], lambda v: field.read(make(v)), value)
        else:
            judge.refused(case, make, value)
    judge.settle()


@pytest.mark.parametrize("name", VECTOR_FIELDS)
def test_the_vector_environment(name: str) -> None:
    try_field(
        name, VECTOR_FIELDS[name], lambda value: DiffusionT2IVectorEnv(**(TINY | {name: value}))
    )


@pytest.mark.parametrize("name", ENV_FIELDS)
def test_the_single_environment(name: str) -> None:
    try_field(name, ENV_FIELDS[name], lambda value: DiffusionT2IEnv(**(TINY | {name: value})))


GYMNASIUM_MAKES = [name for name in NONSENSE if name not in UNCOPYABLE]


@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
def test_gymnasiums_own_makers(make: Callable[..., Any]) -> None:
    judge = Judge()
    for name in GYMNASIUM_MAKES:
        for option in ("prompts", "dtype"):
            if (option, name) != ("prompts", "None"):
                changes = TINY | {option: NONSENSE[name]}
                judge.refused(f"{option}={name}", make, "DiffusionT2I-v0", **changes)
    judge.settle()


BOTH = {"True": True, "False": False, "np.bool_": True}

MODEL_FIELDS: Mapping[str, Field] = {
    field.name: Field(
        lambda model, name=field.name: getattr(model.options, name),
        {"None": None} if field.default is None else BOTH if field.default is False else {},
    )
    for field in dataclasses.fields(ModelOptions)
}

MODEL_FIELDS = {
    **MODEL_FIELDS,
    "t5": Field(lambda model: model.options.t5, {"True": True, "np.bool_": True}),
    "negative_prompt": Field(
        lambda model: str(model.options.negative_prompt),
        {
            label: str(NONSENSE[label])
            for label in (
                *("no text", "blanks", "x", "two lines", "NUL", "long text", "long path"),
                *("dots", "no such user", "Path", "None"),
            )
        },
    ),
    "lora_scale": Field(
        lambda model: model.options.lora_scale,
        dict.fromkeys(("1", "array of no dimension", "tensor of no dimension"), 1.0),
    ),
    "clip_skip": Field(
        lambda model: model.options.clip_skip,
        {
            "0": 0,
            "1": 1,
            "np.int64(2)": 2,
            "array of no dimension": NONSENSE["array of no dimension"].item(),
            "tensor of no dimension": NONSENSE["tensor of no dimension"].item(),
        },
    ),
}


@pytest.mark.parametrize("name", MODEL_FIELDS)
def test_options_of_the_model(name: str) -> None:
    field = MODEL_FIELDS[name]
    try_field(name, field, lambda value: diffusion_gym.load_model(**{name: value}))


FUNCTIONS: Mapping[str, tuple[Callable[[Any], Any], tuple[str, ...]]] = {
    "load_model": (diffusion_gym.load_model, ()),
    "load_prompts": (diffusion_gym.load_prompts, ("array of texts",)),
    "make_reward": (diffusion_gym.make_reward, ("function",)),
    "reward options": (
        lambda value: diffusion_gym.make_reward("clip_score", options={"clip_score": value}),
        ("{}",),
    ),
    "batch_size of a reward": (
        lambda value: diffusion_gym.make_reward(
            "clip_score", options={"clip_score": {"batch_size": value}}
        ),
        ("1", "10**30", "np.int64(2)"),
    ),
    "register_reward": (
        diffusion_gym.register_reward,
        ("x", "np.str_", "dots", "no such user", "long text", "long path"),
    ),
    "reference_policy": (diffusion_gym.reference_policy, ()),
    "images of a grid": (lambda value: diffusion_gym.image_grid(value, 2), ()),
    "columns of a grid": (
        lambda value: diffusion_gym.image_grid(np.zeros((2, 4, 4, 3), np.uint8), value),
        ("1", "10**30", "10**5000", "np.int64(2)"),
    ),
}
"""What else takes a single value, and the nonsense that makes sense to it."""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_single_arguments(name: str) -> None:
    function, accepted = FUNCTIONS[name]
    judge = Judge()
    for label in all_but(*accepted):
        judge.refused(f"{name}({label})", function, NONSENSE[label])
    judge.settle()


# --------------------------------------------------------------------------------------- episodes


def running(env: Any) -> tuple[Any, ...]:
    """All that a refused call must leave as it is."""
    state = env.get_state()
    rows = state.latents.numpy().tobytes(), state.step_index.tobytes(), state.prompt_ids.tobytes()
    return *rows, repr(state.rng)


@pytest.fixture(params=["single", "vector"])
def env(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = (
        DiffusionT2IEnv(**TINY) if request.param == "single" else DiffusionT2IVectorEnv(2, **TINY)
    )
    made.reset(seed=3)
    yield made
    made.close()


def rows_of(env: Any) -> int:
    return 2 if isinstance(env, DiffusionT2IVectorEnv) else 1


def set_state(env: Any, **changes: Any) -> Any:
    return env.set_state(dataclasses.replace(env.get_state(), **changes))


EPISODE_CALLS: Mapping[str, tuple[Callable[[Any, Any], Any], tuple[str, ...]]] = {
    "options": (lambda env, value: env.reset(options=value), ("None", "{}")),
    "seed": (
        lambda env, value: env.reset(seed=value),
        ("None", "0", "1", "10**30", "10**5000", "np.int64(2)", "array of no dimension", "range"),
    ),
    "prompts": (
        lambda env, value: env.reset(options={"prompts": value}),
        ("array of texts",),
    ),
    "prompt_ids": (lambda env, value: env.reset(options={"prompt_ids": value}), ("range",)),
    "a prompt": (
        lambda env, value: env.reset(options={"prompts": [value] * rows_of(env)}),
        ("x", "two lines", "long text", "long path", "dots", "no such user", "np.str_"),
    ),
    "a prompt id": (
        lambda env, value: env.reset(options={"prompt_ids": [value] * rows_of(env)}),
        ("0", "1", "np.int64(2)", "array of no dimension", "tensor of no dimension"),
    ),
    "state": (lambda env, value: env.reset(options={"state": value}), ("None",)),
    "reset_mask": (lambda env, value: env.reset(options={"reset_mask": value}), ("None",)),
    "set_state": (lambda env, value: env.set_state(value), ()),
    "state.latents": (lambda env, value: set_state(env, latents=value), ()),
    "state.step_index": (lambda env, value: set_state(env, step_index=value), ("range",)),
    "state.prompt_ids": (lambda env, value: set_state(env, prompt_ids=value), ("range",)),
    "state.prompts": (lambda env, value: set_state(env, prompts=value), ("array of texts",)),
    "state.model": (lambda env, value: set_state(env, model=value), ()),
    "state.num_steps": (lambda env, value: set_state(env, num_steps=value), ("np.int64(2)",)),
    "state.rng": (lambda env, value: set_state(env, rng=value), ("None",)),
    "a state's rng": (lambda env, value: set_state(env, rng=(value,) * rows_of(env)), ()),
    "select": (lambda env, value: env.get_state().select(value), ("range", "[]", "()")),
    "step": (lambda env, value: env.step(value), ()),
    "report": (lambda env, value: env.report(value), ()),
    "prompt_embedding": (lambda env, value: env.prompt_embedding(value), ("range",)),
    "prompt_text": (
        lambda env, value: env.prompt_text(value),
        ("0", "1", "np.int64(2)", "array of no dimension", "tensor of no dimension"),
    ),
}
"""Calls in the middle of an episode, and the nonsense that makes sense to them."""


@pytest.mark.parametrize("name", EPISODE_CALLS)
def test_calls_in_an_episode(env: Any, name: str) -> None:
    call, accepted = EPISODE_CALLS[name]
    judge = Judge()
    before = running(env)
    for label in all_but(*accepted):
        judge.refused(f"{name}: {label}", call, env, NONSENSE[label])
        judge.same(f"{name}: {label}", before, running(env))
        before = running(env)
    judge.settle()


# ----------------------------------------------------------------------------------------- agents


@pytest.fixture(scope="module")
def trained_env() -> Any:
    return gym.make_vec("DiffusionT2I-v0", num_envs=4, array_type="torch", **TINY)


def agent_of(env: Any, **options: Any) -> DiffusionPPO:
    return DiffusionPPO("UNetPolicy", env, **({"samples_per_prompt": 2, "seed": 0} | options))


def attribute(name: str) -> Callable[[Any], Any]:
    return lambda agent: getattr(agent, name)


def ppo_option(name: str) -> Callable[[Any], Any]:
    return lambda agent: getattr(agent.config, name)


def policy_option(name: str) -> Callable[[Any], Any]:
    return lambda agent: getattr(agent.policy.config, name)


COUNTS = {"1": 1, "10**30": 10**30, "10**5000": 10**5000, "np.int64(2)": 2}

TEXTS = {
    label: str(value)
    for label, value in NONSENSE.items()
    if isinstance(value, str | Path)
    and label not in ("NUL", "half a surrogate pair", "no text", "blanks")
}

PPO_FIELDS: Mapping[str, Field] = {
    **{
        name: Field(ppo_option(name), COUNTS)
        for name in (
            *("batches_per_round", "updates_per_round", "n_epochs", "batch_size"),
            *("statistics_buffer_size", "statistics_min_count"),
        )
    },
    "samples_per_prompt": Field(ppo_option("samples_per_prompt"), {"np.int64(2)": 2}),
    "overlap_rewards": Field(ppo_option("overlap_rewards"), BOTH),
    "learning_rate": Field(
        lambda agent: agent.policy.optimizer.param_groups[0]["lr"], NUMBERS_ABOVE_0
    ),
    "clip_range": Field(lambda agent: agent.clip_range(1.0), NUMBERS_ABOVE_0),
    "advantage": Field(ppo_option("advantage")),
    "standardise_steps": Field(ppo_option("standardise_steps")),
    "multi_objective_aggregation": Field(ppo_option("multi_objective_aggregation")),
    "advantage_clip": Field(ppo_option("advantage_clip"), NUMBERS_ABOVE_0),
    "kl_coef": Field(ppo_option("kl_coef"), NUMBERS_FROM_0),
    "max_grad_norm": Field(attribute("max_grad_norm"), NUMBERS_ABOVE_0),
}
AGENT_FIELDS: Mapping[str, Field] = PPO_FIELDS | {
    "policy_kwargs": Field(lambda agent: agent.policy.guidance, {"None": 1.0, "{}": 1.0}),
    "stats_window_size": Field(lambda agent: agent._stats_window_size, {"1": 1, "np.int64(2)": 2}),
    "tensorboard_log": Field(attribute("tensorboard_log"), {"None": None, **TEXTS}),
    "verbose": Field(attribute("verbose"), {"0": 0, "1": 1, "np.int64(2)": 2}),
    "seed": Field(attribute("seed"), {"None": None, "0": 0, "1": 1, "np.int64(2)": 2}),
    "device": Field(lambda agent: str(agent.device)),
    "env": Field(attribute("env")),
}
POLICY_FIELDS: Mapping[str, Field] = {
    "guidance": Field(policy_option("guidance"), NUMBERS_FROM_0),
    "lora_rank": Field(policy_option("lora_rank"), {"0": 0, "1": 1, "np.int64(2)": 2}),
    "lora_alpha": Field(policy_option("lora_alpha"), {"None": None, **NUMBERS_ABOVE_0}),
    "lora_targets": Field(policy_option("lora_targets"), {"None": None}),
    "autocast": Field(policy_option("autocast"), {"None": None}),
    "gradient_checkpointing": Field(policy_option("gradient_checkpointing"), BOTH),
    "compile": Field(policy_option("compile"), BOTH),
    "log_prob_reduction": Field(policy_option("log_prob_reduction")),
    "optimizer": Field(policy_option("optimizer")),
    "optimizer_kwargs": Field(policy_option("optimizer_kwargs"), {"None": None, "{}": {}}),
}
ADAM_FIELDS: Mapping[str, Field] = {
    "betas": Field(lambda optimizer: optimizer.param_groups[0]["betas"]),
    "eps": Field(lambda optimizer: optimizer.param_groups[0]["eps"], NUMBERS_FROM_0),
    "weight_decay": Field(
        lambda optimizer: optimizer.param_groups[0]["weight_decay"], NUMBERS_FROM_0
    ),
    "amsgrad": Field(lambda optimizer: optimizer.param_groups[0]["amsgrad"], BOTH),
    "maximize": Field(lambda optimizer: optimizer.param_groups[0]["maximize"], BOTH),
}


def test_every_field_of_the_agent_is_tried() -> None:
    assert {field.name for field in dataclasses.fields(PPOConfig)} == set(PPO_FIELDS)
    assert {field.name for field in dataclasses.fields(PolicyConfig)} == set(POLICY_FIELDS)


@pytest.mark.parametrize("name", AGENT_FIELDS)
def test_arguments_of_the_agent(name: str, trained_env: Any) -> None:
    batches = {"batches_per_round": 2} if name == "overlap_rewards" else {}

    def make(value: Any) -> DiffusionPPO:
        return agent_of(**({"env": trained_env} | batches | {name: value}))

    try_field(name, AGENT_FIELDS[name], make)


@pytest.mark.parametrize("name", POLICY_FIELDS)
def test_arguments_of_the_policy(name: str, trained_env: Any) -> None:
    def make(value: Any) -> DiffusionPPO:
        adapters = {"lora_rank": 2} if name in ("lora_alpha", "lora_targets") else {}
        return agent_of(trained_env, policy_kwargs=adapters | {name: value})

    try_field(name, POLICY_FIELDS[name], make)


@pytest.mark.parametrize("name", ADAM_FIELDS)
def test_options_of_adam(name: str) -> None:
    def make(value: Any) -> torch.optim.Optimizer:
        weights = [torch.nn.Parameter(torch.zeros(1))]
        return make_optimizer("adamw", weights, 1e-3, **{name: value})

    try_field(name, ADAM_FIELDS[name], make)


LOADING = ("load", "load env", "resume", "resume env", "resume policy", "resume function")


@pytest.mark.parametrize("name", LOADING)
def test_loading_an_agent(name: str, trained_env: Any, tmp_path: Path) -> None:
    trained_env.reset()
    agent = agent_of(trained_env)
    checkpoint = save_checkpoint(agent, tmp_path / "round-000000")
    file = tmp_path / "agent.zip"
    agent.save(file)
    load, resume = DiffusionPPO.load, DiffusionPPO.resume
    calls: dict[str, Callable[[Any], Any]] = {
        "load": load,
        "load env": lambda value: load(file, env=value),
        "resume": lambda value: resume(value, trained_env),
        "resume env": lambda value: resume(checkpoint, value),
        "resume policy": lambda value: resume(checkpoint, trained_env, value),
        "resume function": lambda value: resume(checkpoint, trained_env, learning_rate=value),
    }
    judge = Judge()
    labels = NONSENSE if name in ("load", "resume") else list(NONSENSE)[1::4]  # others take long
    for label in labels:
        judge.refused(f"{name}: {label}", calls[name], NONSENSE[label])
    judge.settle()


# ------------------------------------------------------------------------------------------ count


def test_there_are_enough_cases() -> None:
    fields = {
        "environments": len(VECTOR_FIELDS) + len(ENV_FIELDS),
        "models": len(MODEL_FIELDS),
        "agents": len(AGENT_FIELDS) + len(POLICY_FIELDS) + len(ADAM_FIELDS),
    }
    counts = {name: number * len(NONSENSE) for name, number in fields.items()}
    counts["gymnasium's makers"] = 4 * len(GYMNASIUM_MAKES) - 2
    counts["functions"] = sum(len(NONSENSE) - len(taken) for _, taken in FUNCTIONS.values())
    calls = sum(len(NONSENSE) - len(taken) for _, taken in EPISODE_CALLS.values())
    counts["episodes"] = 2 * calls  # of the single and of the vector environment
    counts["loading"] = 2 * len(NONSENSE) + (len(LOADING) - 2) * len(list(NONSENSE)[1::4])
    print(counts)
    assert sum(counts.values()) >= 500
