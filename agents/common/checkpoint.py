"""Checkpoints: everything a run needs to go on bit for bit, in one folder, written atomically."""

import dataclasses
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from stable_baselines3.common.utils import get_device
from torch import Tensor

from agents.common.checkpoint_folder import Checkpoint, read_checkpoint, write_checkpoint
from agents.common.processes import Processes
from agents.common.sb3_vec_env import SB3VecEnv, wrap_env
from agents.common.trees import flatten, unflatten
from agents.policy import UNetPolicy
from agents.policy.model_spec import ModelSpec, check_same_weights, load_spec, model_spec
from diffusion_gym.checks import checked
from diffusion_gym.envs.spaces import action_space, observation_space
from diffusion_gym.envs.state import DenoisingState
from diffusion_gym.errors import DiffusionGymError, InvalidInputError, one_line

BUFFERS = {"ep_info_buffer": {"r": 0.0, "l": 0, "t": 0.0}, "ep_success_buffer": 0.0}
"""Stable-Baselines3's of the last episodes, and what their entries are made as."""

OWN = ("counters", "denoiser_evaluations", "wrappers", "env", "random")
"""What each of several processes has of its own; everything else is the same in all."""


@runtime_checkable
class Stateful(Protocol):
    """What has a state that a resumed run needs: wrappers, advantage estimators."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the state up again."""


class Resumable(Protocol):
    """An agent that checkpoints can be made of.

    Attributes:
        COUNTERS: Names of its attributes that are numbers which training changes.
        env: The environment that it trains on.
        policy: What it trains.
        model_spec: The model that it trains on.
        prompt_rng: Draws prompts.
        shuffle_generator: Shuffles minibatches.
        processes: Those that train it together.
    """

    COUNTERS: ClassVar[tuple[str, ...]]
    env: Any
    policy: Any
    model_spec: ModelSpec
    prompt_rng: Any
    shuffle_generator: Any
    processes: Processes
    _stats_window_size: int
    _last_obs: Any
    _last_episode_starts: Any

    def constructor_arguments(self) -> dict[str, Any]:
        """What an agent like this one is built with, besides policy class, environment, device."""

    def stateful_parts(self) -> dict[str, Stateful]:
        """What else has a state, by name."""


_Agent = TypeVar("_Agent", bound=Resumable)


# ------------------------------------------------------------------------------- writing


def save_checkpoint(agent: Resumable, folder: str | Path) -> Path:
    """Writes a checkpoint between two rounds; where several processes train, all call it.

    Whatever interrupts it, ``folder`` either is complete or does not exist.

    Args:
        agent: The agent, after its ``train``.
        folder: The checkpoint's folder; its parent is made where needed.

    Returns:
        The folder.

    Raises:
        InvalidInputError: The agent was built with something that no file can hold.
    """
    folder, processes = Path(folder), agent.processes
    state, others = _state(agent), []
    if not processes.alone:
        own = {} if processes.is_main else {name: state[name] for name in OWN}
        # By way of the host's memory, whatever device its tensors are on.
        others = [unflatten(*parts) for parts in processes.gathered(flatten(own))[1:]]
    processes.from_main(lambda: _write(agent, state, tuple(others), folder))
    return folder


def _write(
    agent: Resumable, state: dict[str, Any], others: tuple[dict[str, Any], ...], folder: Path
) -> None:
    arguments = agent.constructor_arguments()
    functions = [name for name, value in arguments.items() if callable(value)]
    checkpoint = Checkpoint(
        agent={
            "class": type(agent).__name__,
            "policy_class": type(agent.policy).__name__,
            "arguments": {k: v for k, v in arguments.items() if k not in functions},
            "functions": functions,
            "model_spec": agent.model_spec,
            "device": agent.policy.generator.device.type,
        },
        weights=agent.policy.state_dict(),
        optimizer=agent.policy.optimizer.state_dict(),
        state=state,
        others=others,
    )
    write_checkpoint(checkpoint, folder)


def _state(agent: Resumable) -> dict[str, Any]:
    buffers = {name: getattr(agent, name) for name in BUFFERS}
    env = agent.env.base_env.get_state()
    return {
        "counters": {name: getattr(agent, name) for name in agent.COUNTERS},
        "denoiser_evaluations": agent.policy.denoiser_evaluations,
        "gradient_scale": agent.policy.scaler.state_dict(),
        **{name: part.state_dict() for name, part in agent.stateful_parts().items()},
        "wrappers": [[type(w).__name__, w.state_dict()] for w in _stateful_wrappers(agent)],
        **{name: None if values is None else list(values) for name, values in buffers.items()},
        "env": {field.name: getattr(env, field.name) for field in dataclasses.fields(env)},
        "random": _random_state(agent),
    }


def _stateful_wrappers(agent: Resumable) -> list[Stateful]:
    """The environment's wrappers that have a state, from the outermost inwards."""
    found: list[Stateful] = []
    env: Any = agent.env.vector_env
    while env is not env.unwrapped:
        if isinstance(env, Stateful):
            found.append(env)
        env = env.env
    return found


def _random_state(agent: Resumable) -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "prompts": agent.prompt_rng.bit_generator.state,
        "shuffle": agent.shuffle_generator.get_state(),
        "policy": agent.policy.generator.get_state(),
    }


# ------------------------------------------------------------------------------- reading


def resume_agent(
    agent_class: Callable[..., _Agent],
    folder: str | Path,
    env: Any,
    *,
    policy_class: str | type[UNetPolicy] = "UNetPolicy",
    functions: dict[str, Any] | None = None,
) -> _Agent:
    """Builds an agent anew and puts it where the checkpoint's was; the random states come last.

    Args:
        agent_class: The agent's class.
        folder: A folder written by `save_checkpoint`.
        env: An environment made as the first one was, with the same wrappers.
        policy_class: The class that the agent was built with.
        functions: Arguments that are functions, such as schedules, by name: those that the agent
            was built with.

    Raises:
        InvalidInputError: The checkpoint is damaged; or agent, environment, policy class,
            functions or the number of processes are not those that it was written with.
    """
    checkpoint = read_checkpoint(Path(checked("folder", folder, str)))
    env = wrap_env(env)
    with _in_words("the description of the agent"):
        arguments = _arguments(checkpoint, agent_class.__name__, env, functions or {})
        agent = agent_class(policy_class, env, **arguments)
    restore(agent, checkpoint)
    return agent


def restore(agent: Resumable, checkpoint: Checkpoint) -> None:
    """Puts an agent, built as the checkpoint's was, where that one was.

    Raises:
        InvalidInputError: Something does not fit; the agent is then of no use.
    """
    env = agent.env
    _check_policy_class(checkpoint, type(agent.policy))
    _check_processes(checkpoint, agent.processes)
    _load_weights(agent.policy, checkpoint.weights)
    with _in_words("the optimiser's state"):
        _check_optimizer(agent.policy.optimizer, checkpoint.optimizer)
        agent.policy.optimizer.load_state_dict(checkpoint.optimizer)
        _lay_out(agent.policy.optimizer)
    state = checkpoint.state
    if not agent.processes.is_main:
        state = state | checkpoint.others[agent.processes.rank - 1]
    with _in_words("the state of the training"):
        _restore_counters(agent, state)
        _restore_stateful(agent, state)
    with _in_words("the state of the environment"):
        agent._last_obs = env.base_env.set_state(DenoisingState(**state["env"]))[0]
        agent._last_episode_starts = np.ones(env.num_envs, dtype=bool)
    with _in_words("the state of the random generators"):
        _set_random_state(agent, state["random"])


def _arguments(
    checkpoint: Checkpoint, agent_class: str, env: SB3VecEnv, functions: dict[str, Any]
) -> dict[str, Any]:
    """What the agent is built with, where everything is as it was."""
    saved = checkpoint.agent
    if saved["class"] != agent_class:
        raise InvalidInputError(
            f"expected the checkpoint of a {agent_class}, got that of a {saved['class']}"
        )
    check_same_weights(saved["model_spec"], model_spec(env.base_env))
    here = env.base_env.device.type
    if saved["device"] != here:
        raise InvalidInputError(
            f"the run was on {saved['device']}, the environment is on {here}: its random numbers "
            "cannot go on there"
        )
    if set(saved["functions"]) != set(functions):
        wanted = ", ".join(f"{name}=…" for name in saved["functions"]) or "none"
        raise InvalidInputError(
            "a checkpoint holds numbers and texts, but no functions: expected those that the agent "
            f"was built with as arguments ({wanted}), got {', '.join(functions) or 'none'}"
        )
    return {**saved["arguments"], **functions}


def load_policy(
    folder: str | Path, *, device: str = "auto", policy_class: type[UNetPolicy] = UNetPolicy
) -> UNetPolicy:
    """The policy of a checkpoint, with a model of its own; it needs no environment.

    Args:
        folder: A folder written by `save_checkpoint`.
        device: Where to load it.
        policy_class: The class that the agent was built with.

    Raises:
        InvalidInputError: The checkpoint is damaged, or there are other weights under the name of
            the model that it was trained on.
        ModelLoadError: That model cannot be loaded.
    """
    checkpoint = read_checkpoint(Path(checked("folder", folder, str)), weights_only=True)
    _check_policy_class(checkpoint, policy_class)
    with _in_words("the description of the agent"):
        spec, options = checkpoint.agent["model_spec"], checkpoint.agent["arguments"]
        model, schedule = load_spec(spec, get_device(device))
        policy = policy_class(
            observation_space(
                model, schedule, negative_prompts=spec.get("negative_prompts", False)
            ),
            action_space(model),
            lambda _: 0.0,
            model=model,
            schedule=schedule,
            **(options["policy_kwargs"] or {}),
        )
    _load_weights(policy, checkpoint.weights)
    return policy


@contextmanager
def _in_words(what: str) -> Iterator[None]:
    """Turns what a forged or foreign checkpoint may set off into one kind of error."""
    kinds = (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError)
    try:
        yield
    except (DiffusionGymError, torch.OutOfMemoryError):
        raise
    except (*kinds, OverflowError) as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        raise InvalidInputError(
            f"expected {what} as a checkpoint of this agent has it, got {reason}"
        ) from error


def _check_policy_class(checkpoint: Checkpoint, policy_class: type) -> None:
    saved = checkpoint.agent.get("policy_class")
    if saved != policy_class.__name__:
        raise InvalidInputError(
            f"expected the checkpoint of a {policy_class.__name__}, got that of a {saved}: "
            "a checkpoint holds no classes, so name yours when loading it"
        )


def _check_processes(checkpoint: Checkpoint, processes: Processes) -> None:
    saved = 1 + len(checkpoint.others)
    if saved != processes.count:
        how = f"torchrun --nproc-per-node {saved}" if saved > 1 else "one process alone"
        raise InvalidInputError(
            "each process goes on with random numbers and a part of the environment of its own: "
            f"expected as many as have written the checkpoint, {saved} ({how}), got "
            f"{processes.count}"
        )


def _load_weights(policy: UNetPolicy, weights: dict[str, Tensor]) -> None:
    own = policy.state_dict()
    wrong = sorted(own.keys() ^ weights.keys()) or [
        name
        for name, value in own.items()
        if (value.shape, value.dtype) != (weights[name].shape, weights[name].dtype)
    ]
    if wrong:
        raise InvalidInputError(
            f"expected weights of this policy's {len(own)} trainable parameters, got "
            f"{len(weights)}, of which these do not fit: {', '.join(wrong[:4])}"
        )
    policy.load_state_dict(weights)


def _check_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Checks what torch's own ``load_state_dict`` takes as it comes."""
    own = optimizer.state_dict()["param_groups"]
    for group, other in zip(own, saved["param_groups"], strict=True):
        _check_kind(group, other, "param_groups")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, entries in saved["state"].items():
        for name, value in entries.items():
            moment = name.startswith("exp_avg") or name in ("state1", "state2")
            if moment and value.shape != parameters[number].shape:
                raise InvalidInputError(
                    f"expected the optimiser's {name} of parameter {number} to have its shape, "
                    f"{list(parameters[number].shape)}, got {list(value.shape)}"
                )


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Lays the states out in memory as their parameters are, which files know nothing of.

    Fused optimisers go through all of them entry by entry of memory: between channels_last weights
    and contiguous moments they would take others' moments for a weight's own.
    """
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.ndim and value.shape == parameter.shape:
                entries[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _restore_counters(agent: Resumable, state: dict[str, Any]) -> None:
    own = {name: getattr(agent, name) for name in agent.COUNTERS}
    _check_kind(own, state["counters"], "counters")
    for name, value in state["counters"].items():
        setattr(agent, name, value)
    _check_kind(0, state["denoiser_evaluations"], "denoiser_evaluations")
    agent.policy.denoiser_evaluations = state["denoiser_evaluations"]
    for name, entry in BUFFERS.items():
        values = state[name]
        for value in values or ():
            _check_kind(entry, value, name)
        buffer = None if values is None else deque(values, maxlen=agent._stats_window_size)
        setattr(agent, name, buffer)


def _restore_stateful(agent: Resumable, state: dict[str, Any]) -> None:
    names, wrappers = [name for name, _ in state["wrappers"]], _stateful_wrappers(agent)
    if [type(wrapper).__name__ for wrapper in wrappers] != names:
        raise InvalidInputError(
            f"the checkpoint was written with the wrappers {names}, "
            f"the environment has {[type(w).__name__ for w in wrappers]}"
        )
    loaded: list[tuple[str, Any, Any]] = [
        (name, wrapper, saved)
        for wrapper, (name, saved) in zip(wrappers, state["wrappers"], strict=True)
    ]
    loaded.append(("gradient_scale", agent.policy.scaler, state["gradient_scale"]))
    loaded += [(name, part, state[name]) for name, part in agent.stateful_parts().items()]
    for name, target, saved in loaded:
        _check_kind(target.state_dict(), saved, name)
        target.load_state_dict(saved)


def _check_kind(own: Any, saved: Any, place: str) -> None:
    """Checks that what was saved is made as the agent's own is: same keys, same types.

    Lists, and dictionaries that are not keyed by texts, grow in training: only their type counts.
    """
    if type(own) is not type(saved):
        raise InvalidInputError(
            f"expected {place} to be of type {type(own).__name__}, got {type(saved).__name__}"
        )
    if isinstance(own, dict) and own and all(isinstance(key, str) for key in own):
        if own.keys() != saved.keys():
            raise InvalidInputError(
                f"expected {place} to have {', '.join(own)}, got {', '.join(map(str, saved))}"
            )
        for key, value in own.items():
            _check_kind(value, saved[key], f"{place}.{key}")


def _set_random_state(agent: Resumable, state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    for device, saved in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(saved, device)
    agent.prompt_rng.bit_generator.state = state["prompts"]
    agent.shuffle_generator.set_state(state["shuffle"])
    agent.policy.generator.set_state(state["policy"])
