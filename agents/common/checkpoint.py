"""Checkpoints: everything a run needs to go on bit for bit, in one folder, written atomically."""

import os
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch

from diffusion_gym.errors import InvalidInputError

if TYPE_CHECKING:
    from agents.ppo.ppo import DiffusionPPO

AGENT, STATE = "agent.zip", "state.pt"


@runtime_checkable
class Stateful(Protocol):
    """A wrapper with a state that a resumed run needs."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the state up again."""


def save_checkpoint(agent: "DiffusionPPO", folder: Path) -> Path:
    """Writes a checkpoint between two rounds, under a temporary name, then renames it.

    Whatever interrupts it, ``folder`` either is complete or does not exist.

    Args:
        agent: The agent, after `DiffusionPPO.train`.
        folder: The checkpoint's folder; its parent is made where needed.

    Returns:
        The folder.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    agent.save(partial / AGENT)
    torch.save(_state(agent), partial / STATE)
    for file in partial.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    return folder


def checkpoints_in(parent: Path) -> list[Path]:
    """The complete checkpoints below a folder, the oldest first."""
    return sorted(parent.glob("round-*"))


def latest_checkpoint(parent: Path) -> Path:
    """The newest complete checkpoint below a folder.

    Raises:
        InvalidInputError: There is none.
    """
    folders = checkpoints_in(parent)
    if not folders:
        raise InvalidInputError(f"expected a checkpoint in {parent}, found none")
    return folders[-1]


def prune_checkpoints(parent: Path, keep: int) -> None:
    """Deletes all but the newest ``keep`` checkpoints."""
    for folder in checkpoints_in(parent)[:-keep]:
        shutil.rmtree(folder)


def restore(agent: "DiffusionPPO", folder: Path) -> None:
    """Puts back what Stable-Baselines3's own ``load`` leaves out; the random states come last."""
    state = torch.load(folder / STATE, map_location=agent.device, weights_only=False)
    wrappers = _stateful_wrappers(agent)
    if [type(w).__name__ for w in wrappers] != [name for name, _ in state["wrappers"]]:
        raise InvalidInputError(
            f"the checkpoint was written with the wrappers {[n for n, _ in state['wrappers']]}, "
            f"the environment has {[type(w).__name__ for w in wrappers]}"
        )
    for wrapper, (_, wrapper_state) in zip(wrappers, state["wrappers"], strict=True):
        wrapper.load_state_dict(wrapper_state)
    agent._last_obs = agent.env.base_env.set_state(state["env"])[0]
    agent._last_episode_starts = np.ones(agent.env.num_envs, dtype=bool)
    agent.advantage_estimator.load_state_dict(state["statistics"])
    agent.policy.denoiser_evaluations = state["denoiser_evaluations"]
    agent.policy.scaler.load_state_dict(state["gradient_scale"])
    agent.ep_info_buffer = state["ep_info_buffer"]
    _set_random_state(agent, state["random"])


def _state(agent: "DiffusionPPO") -> dict[str, Any]:
    return {
        "env": agent.env.base_env.get_state(),
        "wrappers": [(type(w).__name__, w.state_dict()) for w in _stateful_wrappers(agent)],
        "statistics": agent.advantage_estimator.state_dict(),
        "denoiser_evaluations": agent.policy.denoiser_evaluations,
        "gradient_scale": agent.policy.scaler.state_dict(),
        "ep_info_buffer": agent.ep_info_buffer,
        "random": _random_state(agent),
    }


def _stateful_wrappers(agent: "DiffusionPPO") -> list[Stateful]:
    """The environment's wrappers that have a state, from the outermost inwards."""
    found: list[Stateful] = []
    env: Any = agent.env.vector_env
    while env is not env.unwrapped:
        if isinstance(env, Stateful):
            found.append(env)
        env = env.env
    return found


def _random_state(agent: "DiffusionPPO") -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "prompts": agent.prompt_rng.bit_generator.state,
        "shuffle": agent.shuffle_generator.get_state(),
        "policy": agent.policy.generator.get_state(),
    }


def _set_random_state(agent: "DiffusionPPO", state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"]:
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])
    agent.prompt_rng.bit_generator.state = state["prompts"]
    agent.shuffle_generator.set_state(state["shuffle"].cpu())
    agent.policy.generator.set_state(state["policy"].cpu())
