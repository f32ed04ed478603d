"""The vector environment: B denoising episodes as batched tensors on one device."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from diffusion_gym.checks import takes, whole_numbers
from diffusion_gym.envs._episodes import EpisodeBatch, Rows
from diffusion_gym.envs._forking import use_one_thread_after_fork
from diffusion_gym.envs._one_thread import OneThread, one_thread
from diffusion_gym.envs._prompt_table import PromptTable
from diffusion_gym.envs._reports import Reports
from diffusion_gym.envs._requests import (
    ResetRequest,
    Seeds,
    check_state,
    checked_actions,
    checked_autoreset_mode,
    checked_name,
    checked_num_envs,
    checked_seeds,
    parse_options,
)
from diffusion_gym.envs.config import EnvConfig, load_parts
from diffusion_gym.envs.infos import Infos, scatter, singles, to_numpy
from diffusion_gym.envs.spaces import action_space, observation_space
from diffusion_gym.envs.state import DenoisingState
from diffusion_gym.envs.unscored import Unscored, as_here
from diffusion_gym.images import Frame, to_uint8
from diffusion_gym.models import DiffusionModel, PromptEmbedding
from diffusion_gym.prompts import PromptList
from diffusion_gym.rewards import RewardFunction, RewardResult, score
from diffusion_gym.rewards.isolation import score_and_tell
from diffusion_gym.schedules import Schedule

Observation = dict[str, Any]

ARRAY_TYPES = ("numpy", "torch")
RENDER_MODES = ("rgb_array",)


class DiffusionT2IVectorEnv(VectorEnv[Observation, Any, Any]):
    """B text-to-image denoising episodes in lockstep or at different steps.

    An action is the next latent; an episode has exactly T steps, and its reward, that of the
    decoded image for the prompt, comes with the last. The environment never runs the denoiser:
    the policy does.

    Row i of an environment seeded s goes through the same episodes as a single environment
    seeded s + i.

    With ``array_type="torch"`` all arrays are tensors on the model's device. They are read-only
    by contract: the environment goes on using them. NumPy arrays are copies.

    Gymnasium's wrappers of vector environments (`gymnasium.wrappers.vector`) need:

    ==============  ==========  ===========================================================
    autoreset_mode  array_type  wrappers
    ==============  ==========  ===========================================================
    not "SameStep"  either      TransformObservation, FilterObservation, FlattenObservation
    not "SameStep"  "numpy"     VectorizeTransformObservation
    any             "numpy"     RecordEpisodeStatistics, DictInfoToList, NormalizeReward
    any             either      TransformAction, ClipAction, TransformReward, ClipReward
    ==============  ==========  ===========================================================

    In "NextStep" the step after an episode's last one starts the next episode in that row: its
    action counts for nothing and its reward is 0, as in `gymnasium.vector.SyncVectorEnv`.

    Args:
        num_envs: B, the number of rows.
        array_type: "numpy", or "torch" to keep tensors on the device.
        autoreset_mode: "SameStep", "NextStep", or "Disabled" (then reset with
            ``options={"reset_mask"}``).
        render_mode: "rgb_array", or None.
        **config: The fields of `EnvConfig`.

    Raises:
        UnknownKeywordError: For other keyword arguments.
        InvalidInputError: For unknown names and impossible numbers.
        ModelLoadError: If the model's or the reward's weights cannot be loaded.
    """

    config: EnvConfig
    """What the environment is made of, with the model's defaults filled in."""

    model: DiffusionModel
    """Text encoder, decoder, and fresh denoisers for policies."""

    device: torch.device
    """Where latents live."""

    prompts: PromptList
    """The prompts that episodes draw from."""

    reward_function: RewardFunction
    """What scores the decoded images."""

    schedule: Schedule
    """The maths of a denoising step."""

    images_scored: int
    """Reward queries so far: images that were decoded to be scored."""

    oversized_actions: int
    """Actions so far with an entry beyond the action space's bounds; they were executed."""

    @takes(EnvConfig)
    def __init__(
        self,
        num_envs: int = 1,
        *,
        array_type: str = "numpy",
        autoreset_mode: str | AutoresetMode = "SameStep",
        render_mode: str | None = None,
        **config: Any,
    ) -> None:
        # 1. What was asked for, checked before anything is loaded.
        checked = EnvConfig.from_options(config, type(self).__name__)
        self.num_envs = checked_num_envs(num_envs)
        self.autoreset_mode = checked_autoreset_mode(autoreset_mode)
        self.array_type = checked_name("array type", array_type, ARRAY_TYPES)
        if render_mode is not None:
            checked_name("render mode", render_mode, RENDER_MODES)
        self.render_mode = render_mode
        self.metadata = {
            "render_modes": list(RENDER_MODES),
            "render_fps": 10,
            "autoreset_mode": self.autoreset_mode,
        }
        use_one_thread_after_fork()

        # 2. The parts that it is made of.
        parts = load_parts(checked)
        self.config = parts.config
        self.model = parts.model
        self.device = parts.model.device
        self.prompts = parts.prompts
        self.reward_function = parts.reward_function
        self.schedule = parts.schedule

        # 3. Spaces.
        self.single_observation_space = observation_space(
            self.model, self.schedule, negative_prompts=bool(self.prompts.negative_prompts)
        )
        self.single_action_space = action_space(self.model)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._action_shape = (self.num_envs, *self.model.latent_shape)

        # 4. Prompts, encoded when they are met, or all of them now.
        self._table = PromptTable(
            self.prompts.texts,
            self.model,
            self.reward_function,
            self.prompts.negative_prompts,
            self.prompts.metadata,
        )
        if self.model.options.free_text_encoders:
            self._table.encode_all()
            self.model.free_text_encoders()

        # 5. Episodes, and what is counted of them.
        clean = self.schedule.timesteps.new_zeros(1)  # the timestep once all steps are done
        self._timesteps = torch.cat([self.schedule.timesteps, clean]).float()
        self.images_scored = 0
        self.oversized_actions = 0
        self._episodes = EpisodeBatch(
            self.num_envs,
            self.schedule.num_steps,
            len(self._table),
            self.model.latent_shape,
            self.device,
        )
        self._embedding: PromptEmbedding
        self._prompt_id: Tensor
        self._reports = Reports(self._action_shape, self.device)
        self._next_prompt_ids: Rows | None = None
        self._unscored: list[Unscored] | None = None
        self._one_thread = OneThread()

    # ------------------------------------------------------------ the interface of gymnasium

    @one_thread
    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, Infos]:
        """Starts new episodes from fresh noise.

        Args:
            seed: Row i is seeded with ``seed + i``, or with the i-th of a sequence; None goes on
                with the rows' generators.
            options: At most one of ``prompts`` (B texts), ``prompt_ids`` (B ids) and ``state`` (a
                `DenoisingState` to continue from; its generators are never restored). With
                ``reset_mask`` (bool ``[B]``) only some rows start anew.

        Returns:
            Observation and infos of all rows.

        Raises:
            InvalidInputError: For bad options or seeds.
            ResetNeeded: If the very first reset is restricted to some rows.
        """
        # Where something is refused, nothing has changed.
        request, seeds = self.checked_reset(seed, options)
        self._next_prompt_ids = None
        if request.state is not None:
            self._restore(request.state, seeds)
        elif request.prompts is not None:
            self._begin(request.rows, self._table.ids(request.prompts), seeds)
        else:
            self._begin(request.rows, request.prompt_ids, seeds)
        self._reports.clear()
        return self._output(self._observation()), self._output(self._running_infos())

    @one_thread
    def step(self, actions: Any) -> tuple[Observation, Any, Any, Any, Infos]:
        """Makes the actions the next latents.

        In next-step autoreset a row whose episode has ended starts the next one instead.

        Args:
            actions: Next latents, ``[B, C, h, w]``.

        Returns:
            Observation, rewards ``[B]``, terminations ``[B]`` bool, truncations ``[B]`` bool (all
            false) and infos.

        Raises:
            InvalidAction: If they are no real numbers, the shape is wrong or an entry is NaN or
                infinite.
            ResetNeeded: If a row has no running episode.
        """
        self._require_open()
        self._episodes.require_running(autoreset=self._resets_next)
        fresh = self.rows_to_reset
        latents, oversized = checked_actions(actions, self._action_shape, self.device, fresh)
        if len(fresh):
            self._begin(fresh, None)
        ended = self._episodes.advance(latents, fresh)
        self.oversized_actions += oversized
        self._reports.begin_step()
        if len(fresh):
            rows = torch.from_numpy(fresh).to(self.device)
            self._reports.replace(rows, self._episodes.latents[rows])
        rewards = torch.zeros(self.num_envs, device=self.device)
        terminations = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        infos: Infos = {}
        if len(ended):
            rows = torch.from_numpy(ended).to(self.device)
            terminations[rows] = True
            infos = self._finish(ended, rows, rewards)
        infos = self._running_infos() | infos
        if self.array_type == "numpy":
            rewards = rewards.double()  # like gymnasium's own vector environments
        return (
            self._output(self._observation()),
            self._output(rewards),
            self._output(terminations),
            self._output(torch.zeros_like(terminations)),
            self._output(infos),
        )

    def render(self) -> tuple[Frame, ...] | None:
        """The predicted image so far of every row, ``[H, W, 3]`` uint8.

        That is the decoded clean latent that the policy reported for the step to come, or else
        for the step just made. Without a report, and in rows that have just ended or begun, it is
        the decoded latent itself, which looks noisy until the last step.
        """
        if self.render_mode is None:
            gymnasium.logger.warn(
                "render() was called on an environment without a render mode; make it with "
                'render_mode="rgb_array"'
            )
            return None
        self._require_open()
        images = self.model.decode(self._reports.newest(self._episodes.latents))
        return tuple(to_uint8(images).cpu().numpy())

    def close_extras(self, **kwargs: Any) -> None:
        """Lets go of the model; its memory is freed with its last user."""
        self.model.close()

    @property  # type: ignore[override]
    def np_random(self) -> tuple[np.random.Generator, ...]:
        """The rows' random generators; empty before the first reset."""
        return tuple(self._episodes.generators)

    @np_random.setter  # type: ignore[override]
    def np_random(self, generators: Sequence[np.random.Generator]) -> None:
        self._episodes.use_generators(generators)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seeds of the rows' generators; empty before the first reset."""
        return tuple(self._episodes.seeds)

    # ------------------------------------------------------------------ beyond gymnasium's

    @one_thread
    def report(self, predicted_clean: Any) -> None:
        """Tells the policy's predicted clean latents for the next `step`, and only for that.

        Args:
            predicted_clean: x̂0, ``[B, C, h, w]``.

        Raises:
            InvalidInputError: If they are no real numbers, the shape is wrong or an entry is NaN or
                infinite.
            ResetNeeded: If a row has no running episode.
        """
        self._episodes.require_running(autoreset=self._resets_next)
        self._reports.report(predicted_clean, self.rows_to_reset)

    @property
    def reported(self) -> Tensor:
        """The predicted clean latents for the next `step`, ``[B, C, h, w]``.

        Raises:
            InvalidInputError: If the policy has not reported since the last step or reset.
        """
        return self._reports.reported

    @property
    def step_index(self) -> npt.NDArray[np.int64]:
        """The step that every row is about to make, ``[B]``; T where its episode has ended."""
        return self._episodes.step_index.copy()

    @property
    def rows_to_reset(self) -> Rows:
        """The rows that the next `step` resets in next-step autoreset, ``[N]``; else none."""
        return self._episodes.ended if self._resets_next else np.arange(0)

    @property
    def latents(self) -> Tensor:
        """x_i of every row, ``[B, C, h, w]`` float32 on the device: not a copy, so read-only.

        The environment replaces this tensor in every step and never changes it, so that it may be
        kept.

        Raises:
            ResetNeeded: Before the first reset.
        """
        return self._episodes.latents

    def get_state(self) -> DenoisingState:
        """A copy of the running episodes and of the rows' generators.

        Raises:
            ResetNeeded: Before the first reset.
        """
        episodes = self._episodes
        return DenoisingState(
            latents=episodes.latents.clone(),
            step_index=episodes.step_index.copy(),
            prompt_ids=episodes.prompt_ids.copy(),
            prompts=tuple(self._table.texts(episodes.prompt_ids)),
            model=self.model.name,
            num_steps=episodes.num_steps,
            rng=episodes.rng_state(),
        )

    @property
    def next_prompt_ids(self) -> Rows | None:
        """Prompts of the episodes that autoreset starts until the next `reset`, ``[B]``.

        None draws them. A caller that resets with prompts of its own saves the encoding of those
        drawn by naming prompts here that are encoded already.

        Raises:
            InvalidInputError: When set to something else than B ids of known prompts.
        """
        return self._next_prompt_ids

    @next_prompt_ids.setter
    def next_prompt_ids(self, prompt_ids: Any) -> None:
        if prompt_ids is not None:
            prompt_ids = whole_numbers("next_prompt_ids", prompt_ids, self.num_envs)
            prompt_ids = self._table.checked(prompt_ids)
        self._next_prompt_ids = prompt_ids

    @contextmanager
    def scoring_later(self) -> Iterator[list[Unscored]]:
        """A ``with`` block in which episodes end without their rewards, which take long.

        What they are to be computed of is added to the list, once for every step that ends some.
        Meanwhile rewards and ``return`` of these rows are NaN, ``reward_valid`` is true, and there
        are no ``reward_terms``. Whoever has the scores writes them where they belong
        (`Unscored.write`): wrappers that read rewards must not lie around the environment.

        Yields:
            The list, empty at first.
        """
        outer, self._unscored = self._unscored, []
        try:
            yield self._unscored
        finally:
            self._unscored = outer

    @one_thread
    def set_state(
        self, state: DenoisingState, *, restore_rng: bool = True
    ) -> tuple[Observation, Infos]:
        """Continues from a state of B rows; prompts are recognised by their text.

        Args:
            state: From `get_state`, of this or another environment with the same model and T.
            restore_rng: Also restore the rows' generators, where the state has them. With False,
                and for a selection of rows, the current episodes are those of the state, but the
                following ones start from the rows' own noise.

        Returns:
            Observation and infos, as `reset` returns them.

        Raises:
            InvalidInputError: If the state does not fit this environment.
        """
        self._require_open()
        self._check_state(state)
        self._restore(state)
        if restore_rng and state.rng is not None:
            self._episodes.restore_rng(state.rng)
        self._reports.clear()
        return self._output(self._observation()), self._output(self._running_infos())

    def prompt_text(self, prompt_id: int) -> str:
        """The text of a prompt id."""
        return self._table.text(prompt_id)

    def prompt_embedding(self, prompt_ids: Any) -> PromptEmbedding:
        """Embeddings of prompts, of N rows on the device, from the environment's cache.

        Args:
            prompt_ids: ``[N]`` integers, as a tensor, an array or a list.
        """
        return self._table.embedding(self._table.checked(prompt_ids))

    def checked_reset(
        self, seed: int | Sequence[int | None] | None, options: dict[str, Any] | None
    ) -> tuple[ResetRequest, Seeds | None]:
        """What `reset` would be asked for, checked; nothing changes.

        Raises:
            InvalidInputError: For bad options or seeds.
            ResetNeeded: If the very first reset is restricted to some rows.
        """
        self._require_open()
        request = parse_options(options, self.num_envs, self._table)
        if request.state is not None:
            self._check_state(request.state)
        if not self._episodes.started and len(request.rows) < self.num_envs:
            raise ResetNeeded("the first reset must start all rows, got a reset_mask")
        return request, checked_seeds(seed, self.num_envs)

    # --------------------------------------------------------------------------- internals

    def _begin(self, rows: Rows, prompt_ids: Rows | None, seeds: Seeds | None = None) -> None:
        """Starts new episodes in some rows.

        Args:
            rows: The rows, ``[N]``.
            prompt_ids: Their prompts, ``[N]``; None takes `next_prompt_ids`, or draws them.
            seeds: New seeds of all rows, ``[B]``; None goes on with the generators.
        """
        if prompt_ids is None:
            self._episodes.seed(seeds, rows)
            prompt_ids, seeds = self._episodes.draw_prompts(rows), None
            if self._next_prompt_ids is not None:  # drawn all the same: the noise stays what it is
                prompt_ids = self._next_prompt_ids[rows]
        ids = self._episodes.prompt_ids.copy()
        ids[rows] = prompt_ids
        embedding = self._table.embedding(ids)  # before anything changes, since it may fail
        self._episodes.seed(seeds, rows)
        self._episodes.begin(rows, ids)
        self._prompts_changed(embedding)

    def _restore(self, state: DenoisingState, seeds: Seeds | None = None) -> None:
        """Replaces all episodes by those of a state that was checked, but for the generators."""
        prompt_ids = self._table.ids(state.prompts)
        embedding = self._table.embedding(prompt_ids)
        self._episodes.seed(seeds, np.arange(self.num_envs))
        self._episodes.restore(state.latents, state.step_index, prompt_ids)
        self._prompts_changed(embedding)

    def _prompts_changed(self, embedding: PromptEmbedding) -> None:
        """Makes the tensors that stay the same objects until an episode begins."""
        self._embedding = embedding
        self._prompt_id = torch.from_numpy(self._episodes.prompt_ids).to(self.device)

    def _check_state(self, state: DenoisingState) -> None:
        num_steps = self.schedule.num_steps
        shape = self._action_shape
        check_state(state, self.model.name, num_steps, shape, self._table, self._episodes)

    def _observation(self) -> dict[str, Tensor]:
        index = torch.from_numpy(self._episodes.step_index).to(self.device)
        observation = {
            "latent": self._episodes.latents,
            "timestep": self._timesteps[index].unsqueeze(1),
        }
        return observation | self._embedding.as_observed()

    def _running_infos(self) -> Infos:
        return {
            "prompt_id": self._prompt_id,
            "_prompt_id": torch.ones(self.num_envs, dtype=torch.bool, device=self.device),
        }

    def _finish(self, ended: Rows, rows: Tensor, rewards: Tensor) -> Infos:
        """Scores the rows that ended and, in same-step autoreset, starts their next episodes.

        In `scoring_later` the scores are left to others.

        Args:
            ended: The rows, ``[N]``, as an array.
            rows: The same on the device.
            rewards: ``[B]``; those of the rows are filled in.

        Returns:
            What the infos say about the episodes that ended.
        """
        # Decode and score the final latents.
        latents, prompt_ids = self._episodes.latents, self._episodes.prompt_ids[ended]
        images = self.model.decode(latents if len(ended) == self.num_envs else latents[rows])
        texts, metadata = self._table.texts(prompt_ids), self._table.metadata(prompt_ids)
        if self._unscored is None:
            result = score(self.reward_function, images, texts, metadata)
        else:
            asked = (self.reward_function, images, texts, metadata)
            self._unscored.append(Unscored(rows, as_here(lambda: score_and_tell(*asked))))
            unknown = torch.full_like(rewards[rows], torch.nan)
            result = RewardResult(unknown, torch.ones_like(rows, dtype=torch.bool))
        self.images_scored += len(ended)
        rewards[rows] = result.values

        # Say of these rows what `finished_episodes` reads.
        outcome: Infos = {
            "prompt_id": self._prompt_id[rows],
            "image": to_uint8(images),
            "return": rewards[rows],
            "reward_valid": result.valid,
            "reward_terms": result.terms,
        }
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            del outcome["prompt_id"]  # the running infos have it
            infos = scatter(outcome, rows, self.num_envs)
        else:
            # Put it aside, since the top level belongs to the episodes that begin now.
            final = {"final_info": outcome}
            infos = scatter(final, rows, self.num_envs)
            final_obs = self._observation()
            if self.array_type == "numpy":
                final_obs = singles(to_numpy(final_obs), ended)
            infos["final_obs"] = final_obs
            infos["_final_obs"] = infos["_final_info"]
            self._begin(ended, None)
        self._reports.replace(rows, self._episodes.latents[rows])
        return infos

    @property
    def _resets_next(self) -> bool:
        return self.autoreset_mode is AutoresetMode.NEXT_STEP

    def _require_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError(
                "expected an open environment, got one that was closed, and whose model is let go: "
                "make a new one (Stable-Baselines3's check_env goes on with a closed one unless "
                "skip_render_check is true)"
            )

    def _output(self, value: Any) -> Any:
        """Tensors as what the environment returns: themselves, or NumPy copies."""
        return value if self.array_type == "torch" else to_numpy(value)
