"""The environment below the wrappers, single or vector: reading it and writing its infos.

A single environment is a batch of one, so that a wrapper is written once, for a batch of B rows.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from diffusion_gym.envs.env import DiffusionT2IEnv
from diffusion_gym.envs.infos import Infos, row_of, scatter, to_numpy
from diffusion_gym.envs.vector_env import DiffusionT2IVectorEnv

BaseEnv = DiffusionT2IEnv | DiffusionT2IVectorEnv


def num_rows(base: BaseEnv) -> int:
    """B; a single environment is a batch of one."""
    return base.num_envs if isinstance(base, DiffusionT2IVectorEnv) else 1


def resets_next(base: BaseEnv) -> bool:
    """Whether a row whose episode has ended is reset by the next step."""
    if not isinstance(base, DiffusionT2IVectorEnv):
        return False
    return base.autoreset_mode is AutoresetMode.NEXT_STEP


def write_outcome(base: BaseEnv, infos: Infos, values: Mapping[str, Tensor], rows: Tensor) -> None:
    """Adds to what the infos tell of episodes that have just ended, in place.

    Args:
        base: The environment that the infos came from.
        infos: A single environment's, or a vector environment's in any autoreset mode.
        values: What to add, ``[N, …]`` each.
        rows: Rows of the N episodes, on the environment's device.
    """
    if isinstance(base, DiffusionT2IEnv):
        infos.update(row_of(to_numpy(dict(values)), 0))
        return
    on_device = {key: value.to(base.device) for key, value in values.items()}
    laid_out = scatter(on_device, rows, base.num_envs)
    infos.get("final_info", infos).update(as_returned(base, laid_out))


def as_returned(base: DiffusionT2IVectorEnv, values: Any) -> Any:
    """Tensors as what the environment returns: themselves, or NumPy copies."""
    return values if base.array_type == "torch" else to_numpy(values)


def final_latents(base: BaseEnv, infos: Infos, rows: Tensor) -> Tensor:
    """x_T of episodes that have just ended, ``[N, C, h, w]``, whatever the autoreset mode."""
    if "final_obs" not in infos:
        return base.latents[rows]
    final = infos["final_obs"]
    if isinstance(final, dict):
        return torch.as_tensor(final["latent"][rows])
    latents = np.stack([final[row]["latent"] for row in rows.tolist()])
    return torch.from_numpy(latents).to(base.model.device)
