"""The single environment: a batch of one, in NumPy."""

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.error import InvalidAction
from torch import Tensor

from diffusion_gym.checks import takes
from diffusion_gym.envs._one_thread import OneThread, one_thread
from diffusion_gym.envs._requests import real_numbers
from diffusion_gym.envs.config import EnvConfig
from diffusion_gym.envs.infos import Infos, row_of
from diffusion_gym.envs.state import DenoisingState
from diffusion_gym.envs.vector_env import DiffusionT2IVectorEnv
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.images import Frame
from diffusion_gym.models import DiffusionModel, PromptEmbedding
from diffusion_gym.prompts import PromptList
from diffusion_gym.rewards import RewardFunction
from diffusion_gym.schedules.base import Schedule

SingleObservation = dict[str, npt.NDArray[np.float32]]

#: Keyword arguments that only the vector environment has.
VECTOR_ONLY = ("num_envs", "array_type", "autoreset_mode")


class DiffusionT2IEnv(gymnasium.Env[SingleObservation, npt.NDArray[np.float32]]):
    """One text-to-image denoising episode at a time.

    A batch of one, of the vector environment, does the work.

    Args:
        render_mode: "rgb_array", or None.
        **config: The fields of `EnvConfig`.

    Raises:
        UnknownKeywordError: For other keyword arguments.
        InvalidInputError: For unknown names and impossible numbers.
        ModelLoadError: If the model's or the reward's weights cannot be loaded.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (gymnasium's)

    @takes(EnvConfig)
    def __init__(self, *, render_mode: str | None = None, **config: Any) -> None:
        for name in VECTOR_ONLY:
            if name in config:
                raise InvalidInputError(
                    f"{name!r} belongs to vector environments: expected "
                    f"gymnasium.make_vec('DiffusionT2I-v0', {name}=…), got gymnasium.make(…)"
                )
        checked = EnvConfig.from_options(config, type(self).__name__)
        self._batch = DiffusionT2IVectorEnv(
            1, autoreset_mode="Disabled", render_mode=render_mode, **vars(checked)
        )
        self.render_mode = render_mode
        self.observation_space = self._batch.single_observation_space
        self.action_space = self._batch.single_action_space

    @one_thread
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[SingleObservation, Infos]:
        """Starts a new episode from fresh noise.

        Args:
            seed: Seeds the environment's generator.
            options: As for the vector environment, for one row: ``{"prompts": ["a cat"]}``,
                ``{"prompt_ids": [3]}`` or ``{"state": state}``.

        Returns:
            Observation and info.

        Raises:
            InvalidInputError: For bad options or a bad seed.
        """
        # Checked first: where it is refused, nothing has changed.
        _, seeds = self._batch.checked_reset(None if seed is None else [seed], options)
        before = self.np_random, self.np_random_seed
        super().reset(seed=None if seeds is None else seeds[0])
        self._share_generator()
        try:
            observation, infos = self._batch.reset(options=options)
        except BaseException:  # such as a prompt that the text encoders overflow on
            self._np_random, self._np_random_seed = before
            self._share_generator()
            raise
        return _first(observation), row_of(infos, 0)

    @one_thread
    def step(
        self, action: npt.NDArray[np.float32]
    ) -> tuple[SingleObservation, float, bool, bool, Infos]:
        """Makes the action, ``[C, h, w]``, the next latent.

        Raises:
            InvalidAction: If it is no array of real numbers, the shape is wrong or an entry is NaN
                or infinite.
            ResetNeeded: If no episode is running.
        """
        what, shape = "an action, the next latent", self.action_space.shape
        latent = real_numbers(what, action, InvalidAction)
        if tuple(latent.shape) != shape:
            raise InvalidAction(f"expected {what}, of shape {shape}, got {tuple(latent.shape)}")
        observation, rewards, terminations, _, infos = self._batch.step(latent[None])
        return (
            _first(observation),
            float(rewards[0]),
            bool(terminations[0]),
            False,
            row_of(infos, 0),
        )

    def render(self) -> Frame | None:
        """The predicted image so far, ``[H, W, 3]`` uint8; see the vector environment's."""
        frames = self._batch.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Lets go of the model."""
        self._batch.close()

    @property
    def config(self) -> EnvConfig:
        """What the environment is made of, with the model's defaults filled in."""
        return self._batch.config

    @property
    def model(self) -> DiffusionModel:
        """Text encoder, decoder, and fresh denoisers for policies."""
        return self._batch.model

    @property
    def schedule(self) -> Schedule:
        """The maths of a denoising step."""
        return self._batch.schedule

    @property
    def prompts(self) -> PromptList:
        """The prompts that episodes draw from."""
        return self._batch.prompts

    @property
    def reward_function(self) -> RewardFunction:
        """What scores the decoded image."""
        return self._batch.reward_function

    @property
    def images_scored(self) -> int:
        """Reward queries so far."""
        return self._batch.images_scored

    @property
    def oversized_actions(self) -> int:
        """Actions so far with an entry beyond the action space's bounds; they were executed."""
        return self._batch.oversized_actions

    @property
    def reported(self) -> Tensor:
        """The predicted clean latent for the next `step`, ``[1, C, h, w]``."""
        return self._batch.reported

    def report(self, predicted_clean: Any) -> None:
        """Tells the policy's predicted clean latent, ``[C, h, w]``, for the next `step` only.

        Raises:
            InvalidInputError: If it is no array of real numbers, the shape is wrong or an entry is
                NaN or infinite.
            ResetNeeded: If no episode is running.
        """
        self._batch.report(real_numbers("a predicted clean latent", predicted_clean)[None])

    @property
    def step_index(self) -> npt.NDArray[np.int64]:
        """The step that the episode is about to make, ``[1]``; T where it has ended."""
        return self._batch.step_index

    @property
    def latents(self) -> Tensor:
        """x_i, ``[1, C, h, w]`` on the model's device; read-only, as the vector environment's."""
        return self._batch.latents

    def get_state(self) -> DenoisingState:
        """A copy of the running episode, a state of one row."""
        return self._batch.get_state()

    @one_thread
    def set_state(
        self, state: DenoisingState, *, restore_rng: bool = True
    ) -> tuple[SingleObservation, Infos]:
        """Continues from a state of one row, as the vector environment's `set_state`."""
        self._share_generator()
        observation, infos = self._batch.set_state(state, restore_rng=restore_rng)
        return _first(observation), row_of(infos, 0)

    def prompt_text(self, prompt_id: int) -> str:
        """The text of a prompt id."""
        return self._batch.prompt_text(prompt_id)

    def prompt_embedding(self, prompt_ids: Any) -> PromptEmbedding:
        """Embeddings of prompts, ``[N, L, D]`` tensors on the model's device."""
        return self._batch.prompt_embedding(prompt_ids)

    @property
    def _one_thread(self) -> OneThread:
        return self._batch._one_thread

    def _share_generator(self) -> None:
        """Lets the batch draw from this environment's own generator."""
        self._batch.np_random = (self.np_random,)


def _first(observation: dict[str, Any]) -> SingleObservation:
    return {key: values[0] for key, values in observation.items()}
