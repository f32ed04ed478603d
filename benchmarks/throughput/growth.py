"""What the environment itself takes, without any denoiser, as its numbers grow."""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import diffusion_gym  # noqa: F401  (registers the environment)
from benchmarks.sized.checkpoints import save_checkpoint_of
from benchmarks.sized.networks import SMALL
from benchmarks.throughput.jobs import EMBEDDED
from benchmarks.throughput.machine import timed
from diffusion_gym.prompts import load_prompts

WIDE = dataclasses.replace(
    SMALL,
    name="wide",
    network=MappingProxyType({**SMALL.network, "cross_attention_dim": 768}),
    text_encoders=(
        MappingProxyType({**SMALL.text_encoders[0], "hidden_size": 768, "num_attention_heads": 12}),
    ),
)
"""Small, but with prompt embeddings of Stable Diffusion 1.5's size, 77 × 768."""

ENVS = (1, 4, 16, 64, 256, 1024, 4096)
STEPS = (10, 50, 200)
PROMPTS = (10, 100, 1000)
USUAL_ENVS, USUAL_STEPS, USUAL_PROMPTS = 64, 50, 10
SECONDS = 0.5
"""How long steps are taken, at least."""

Row = dict[str, Any]


def measure(device: str = "cpu", envs: Sequence[int] = ENVS) -> list[Row]:
    """Milliseconds of a step, and of a reset, for environments that differ in one number each.

    Steps are all but an episode's last, which decodes and scores.

    Returns:
        Rows with ``embedding``, ``num_envs``, ``steps``, ``prompts``, ``step_ms``, ``reset_ms``.
    """
    with tempfile.TemporaryDirectory() as folder:
        wide = str(save_checkpoint_of(WIDE, Path(folder) / "wide", device))
        cases = [(m, n, USUAL_STEPS, USUAL_PROMPTS) for m in (EMBEDDED, wide) for n in envs]
        usual = min(USUAL_ENVS, max(envs))
        cases += [(EMBEDDED, usual, steps, USUAL_PROMPTS) for steps in STEPS]
        cases += [(EMBEDDED, usual, USUAL_STEPS, prompts) for prompts in PROMPTS]
        return [_row(*case, device) for case in dict.fromkeys(cases)]


def _row(model: str, num_envs: int, steps: int, prompts: int, device: str) -> Row:
    texts = load_prompts("emoji-captions").texts
    own = [f"{texts[k % len(texts)]} {k // len(texts) or ''}".strip() for k in range(prompts)]
    env: Any = gym.make_vec(
        "DiffusionT2I-v0",
        num_envs=num_envs,
        array_type="torch",
        model=model,
        prompts=own,
        reward="jpeg_compressibility",
        num_inference_steps=steps,
        device=device,
    )
    on = torch.device(device)
    observation, _ = env.reset(seed=0)  # encodes the prompts that it draws
    again = np.arange(num_envs) % prompts
    env.reset(options={"prompt_ids": again})
    reset = min(timed(lambda: env.reset(options={"prompt_ids": again}), on) for _ in range(3))
    action = torch.randn_like(observation["latent"])
    spent: list[float] = []
    while sum(spent) < SECONDS:
        env.reset(options={"prompt_ids": again})
        spent += [timed(lambda: env.step(action), on) for _ in range(steps - 1)]
    shape = tuple(observation["prompt_embedding"].shape[1:])
    env.close()
    return {
        "embedding": "×".join(map(str, shape)),
        "num_envs": num_envs,
        "steps": steps,
        "prompts": prompts,
        "step_ms": 1e3 * float(np.median(spent)),
        "reset_ms": 1e3 * reset,
    }
