"""The untrained model as a policy."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffusion_gym.checks import NotNegative, checked
from diffusion_gym.errors import InvalidInputError, shown
from diffusion_gym.models import DiffusionModel, PromptEmbedding, guided_prediction
from diffusion_gym.schedules import DenoisingStep, Schedule


class _Stream(NamedTuple):
    """Random numbers beside those of a row's generator, which goes on as if there were none.

    Attributes:
        source: The row's generator in the environment.
        own: The one that it has spawned.
    """

    source: np.random.Generator
    own: np.random.Generator


class ReferencePolicy:
    """Samples the next latent as the model's own sampler does; built by `reference_policy`.

    Attributes:
        model: The model.
        schedule: The environment's denoising steps.
        guidance: Classifier-free guidance scale.
    """

    def __init__(self, env: Any, guidance: float, generator: torch.Generator | None) -> None:
        base: Any = getattr(env, "unwrapped", None)
        if not hasattr(base, "report"):
            raise InvalidInputError(f"expected an environment of DiffusionT2I-v0, got {shown(env)}")
        self.guidance = checked("guidance", guidance, NotNegative)
        base.model.check_guidance(
            self.guidance, negative_prompts=bool(base.prompts.negative_prompts)
        )
        self._generator = generator
        self._streams: dict[int, _Stream] = {}
        self._base = base
        self.model: DiffusionModel = base.model
        self.schedule: Schedule = base.schedule
        self._denoiser = base.model.new_denoiser()
        self._null_embedding = base.model.null_embedding
        self._latent_dims = len(base.model.latent_shape)

    def __repr__(self) -> str:
        return f"ReferencePolicy(guidance={self.guidance}, schedule={self.schedule!r})"

    @torch.no_grad()
    def __call__(self, observation: dict[str, Any]) -> tuple[Any, DenoisingStep]:
        """Draws an action, and reports the predicted clean latent to the environment.

        Args:
            observation: From the environment, of one row or of B, in NumPy or torch.

        Returns:
            The action, in the observation's kind and shape, and the Gaussian it was drawn from,
            tensors with a batch dimension.
        """
        latent = observation["latent"]
        single = latent.ndim == self._latent_dims
        batch = {key: self._batched(value, single) for key, value in observation.items()}
        # A row that is only reset by the next step, as Gymnasium's next-step mode has it, gets
        # some action or other: nobody looks at it.
        ended = torch.from_numpy(self._base.step_index == self.schedule.num_steps)
        first = self.schedule.timesteps[0].to(batch["timestep"])
        batch["timestep"] = batch["timestep"].where(~ended[:, None].to(first.device), first)
        step = self.transition(batch)
        noise = self._noise() if self._generator is None else None
        action = self.schedule.sample(step, generator=self._generator, noise=noise)
        self._base.report(step.predicted_clean[0] if single else step.predicted_clean)
        if single:
            action = action[0]
        return (action if isinstance(latent, Tensor) else action.cpu().numpy()), step

    @torch.no_grad()
    def transition(self, observation: dict[str, Tensor]) -> DenoisingStep:
        """The Gaussian over the next latents, of a batch of observations as tensors.

        Nothing is drawn, and nothing reported.
        """
        index = self.schedule.index_of(observation["timestep"][:, 0])
        output = guided_prediction(
            self._denoiser,
            observation["latent"],
            self.schedule.timesteps[index],
            PromptEmbedding.observed(observation),
            null_embedding=self._null_embedding,
            guidance=self.guidance,
        )
        return self.schedule.transition(output, observation["latent"], index)

    def _noise(self) -> Tensor:
        """Standard normal noise from every row's own stream, ``[B, C, h, w]``."""
        generators = self._base.np_random
        rows = [generators] if isinstance(generators, np.random.Generator) else generators
        for row, source in enumerate(rows):
            if row not in self._streams or self._streams[row].source is not source:  # seeded anew
                self._streams[row] = _Stream(source, source.spawn(1)[0])
        shape = self.model.latent_shape
        drawn = [self._streams[row].own.standard_normal(shape, np.float32) for row in self._streams]
        return torch.from_numpy(np.stack(drawn))

    def _batched(self, value: Any, single: bool) -> Tensor:
        tensor = torch.as_tensor(value, device=self.schedule.device)
        return tensor[None] if single else tensor


def reference_policy(
    env: Any, guidance: float = 1.0, *, generator: torch.Generator | None = None
) -> ReferencePolicy:
    """The untrained model as a policy, with a denoiser of its own.

    Example:
        >>> import gymnasium, diffusion_gym
        >>> env = gymnasium.make("DiffusionT2I-v0")
        >>> policy = diffusion_gym.reference_policy(env)
        >>> observation, info = env.reset(seed=0)
        >>> terminated = False
        >>> while not terminated:
        ...     action, _ = policy(observation)
        ...     observation, reward, terminated, _, info = env.step(action)
        >>> info["image"].shape
        (64, 64, 3)

    Args:
        env: A single or vector environment, wrapped or not; wrappers must leave the observation
            as it is.
        guidance: Classifier-free guidance scale; 1 is one denoiser pass without guidance.
        generator: Source of the policy's noise; None: a stream for each row, spawned by the row's
            generator in the environment. Then ``reset(seed=…)`` repeats the noise of the actions as
            well, and a row's episodes do not depend on the batch that it sits in.

    Returns:
        A function from observations to (action, step).

    Raises:
        InvalidInputError: It is no such environment, or the scale is no number of at least 0.
    """
    return ReferencePolicy(env, guidance, generator)
