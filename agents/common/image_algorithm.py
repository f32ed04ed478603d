"""What the agents have in common: Stable-Baselines3 algorithms that train in rounds of images."""

import abc
import inspect
import os
import pickle
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor

from agents.common.advantages import AdvantageEstimator, DecoupledAdvantages, make_estimator
from agents.common.arguments import (
    MEANINGLESS,
    StockConfig,
    check_groups,
    checked_device,
    refuse_meaningless,
    reward_weights,
)
from agents.common.checkpoint import Stateful, resume_agent
from agents.common.episodes import NAMED, Episodes, RoundBuffer
from agents.common.figures import episode_figures, update_figures
from agents.common.overlap import Batches, Drawn, check_overlap, scored_meanwhile
from agents.common.processes import Processes, Rows, current
from agents.common.rollout import draw_prompts, finished_step
from agents.common.round_config import RoundConfig
from agents.common.sb3_vec_env import SB3VecEnv, wrap_env
from agents.policy import UNetPolicy
from agents.policy.model_spec import ModelSpec, check_same_weights, load_spec, model_spec
from diffusion_gym.checks import checked, takes
from diffusion_gym.envs import DiffusionT2IVectorEnv
from diffusion_gym.errors import DiffusionGymError, InvalidInputError, first_line, shown
from diffusion_gym.models import DiffusionModel, PromptEmbedding
from diffusion_gym.schedules.base import Schedule
from diffusion_gym.wrappers import B2DiffuRLReward, shapings

MOST_FAILED_OF = 10
"""Of so many images one may have no reward."""

LOADING_ERRORS = (
    *(OSError, TypeError, ValueError, KeyError, RuntimeError, EOFError, pickle.UnpicklingError),
    AssertionError,  # Stable-Baselines3's, where the file is no zip archive
)


class RewardFailureError(DiffusionGymError, RuntimeError):
    """The reward function failed on too many images of a round."""


class ImageAlgorithm(OnPolicyAlgorithm):
    """Rounds of images, then updates on them, counted in images; the base of every agent.

    Every counter that Stable-Baselines3 calls timesteps counts images here: ``learn(1216)`` draws
    1,216 images (whole rounds), and a callback's step is one batch of them.

    A subclass says what it keeps of an episode (`_new_buffer`, `_collect_batch`), what an update is
    made of (`_pairs`, `_passes`, `_loss`), and what it is told (`config_class`).

    Where there is a process group (`agents.common.processes.join`), the agents of all processes
    train one policy: each draws and trains its part of every batch. Advantages compare the images
    of all, gradients are added up, and counters and logs are of all.

    Args:
        policy: ``"UNetPolicy"`` or a subclass of it.
        env: ``gymnasium.make_vec("DiffusionT2I-v0", num_envs=…, array_type="torch")``.
        policy_kwargs: The fields of `agents.policy.config.PolicyConfig`.
        stats_window_size: Episodes that Stable-Baselines3's ``ep_info_buffer`` remembers.
        tensorboard_log: Folder for TensorBoard events.
        verbose: Stable-Baselines3's verbosity.
        seed: Seed of everything that draws random numbers.
        device: Must be the environment's, or ``"auto"``.
        **config: The fields of the subclass's `config_class`.

    Raises:
        TypeError: An argument that means nothing here; the message says why.
        InvalidInputError: An argument's value, or the environment, cannot work.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"UNetPolicy": UNetPolicy}
    policy: UNetPolicy  # type: ignore[assignment]  # Stable-Baselines3 expects a critic in it
    rollout_buffer: RoundBuffer[Any]  # type: ignore[assignment]  # whole episodes, no values
    env: SB3VecEnv | None

    config_class: ClassVar[type[RoundConfig]] = RoundConfig
    """What its arguments are the fields of."""

    meaningless: ClassVar[Mapping[str, str]] = MEANINGLESS
    """Arguments of Stable-Baselines3's PPO that it has no use for, and why."""

    log_fields: ClassVar[tuple[str, ...]] = ("loss",)
    """The fields of what `_loss` tells of a minibatch."""

    stopping: bool = False
    """Set at a round's start by a callback that ends `learn` before anything is drawn."""

    config: RoundConfig
    """What it was told about rounds, advantages and updates."""

    processes: Processes
    """Those that train together."""

    advantage_estimator: AdvantageEstimator | DecoupledAdvantages
    """Compares each image with others of its prompt."""

    prompt_rng: np.random.Generator
    """Draws the rounds' prompts."""

    shuffle_generator: torch.Generator
    """Draws the order of the updates' pairs."""

    model_spec: ModelSpec
    """Which model and schedule it trains, to find them again without an environment."""

    rounds: int
    """Rounds so far."""

    rounds_without_pairs: int
    """Rounds in which nothing was left to train on."""

    reward_queries: int
    """Images scored in training so far."""

    seconds: float
    """Time spent in `learn` so far, before a resumption included."""

    def __init_subclass__(cls, **others: Any) -> None:
        """Shows the fields of `config_class` in the class's signature."""
        super().__init_subclass__(**others)

        @takes(cls.config_class)
        def build(
            policy: str | type[UNetPolicy] = "UNetPolicy",
            env: Any = None,
            *,
            policy_kwargs: dict[str, Any] | None = None,
            stats_window_size: int = 100,
            tensorboard_log: str | None = None,
            verbose: int = 0,
            seed: int | None = None,
            device: torch.device | str = "auto",
            **config: Any,
        ) -> None: ...

        cls.__signature__ = inspect.signature(build)  # type: ignore[attr-defined]

    def __init__(
        self,
        policy: str | type[UNetPolicy] = "UNetPolicy",
        env: Any = None,
        *,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
        **config: Any,
    ) -> None:
        # 1. What was asked for, checked before Stable-Baselines3 sees it.
        name = type(self).__name__
        refuse_meaningless(config, name, self.meaningless)
        self.config = self.config_class.from_options(config, name)
        stock = StockConfig(policy_kwargs, stats_window_size, tensorboard_log, verbose, seed)
        if env is not None:
            env = wrap_env(env)
            device = checked_device(env, device)
        self.processes = current()
        if seed is None and not self.processes.alone:
            raise InvalidInputError(
                "several processes draw parts of the same random numbers: expected a seed, got None"
            )

        # 2. Stable-Baselines3's own part of it.
        super().__init__(
            policy,  # type: ignore[arg-type]  # see above
            env,
            learning_rate=self.config.learning_rate,
            max_grad_norm=self.config.max_grad_norm,
            policy_kwargs=None if stock.policy_kwargs is None else dict(stock.policy_kwargs),
            stats_window_size=stock.stats_window_size,
            tensorboard_log=stock.tensorboard_log,
            verbose=stock.verbose,
            seed=stock.seed,
            device=device,
            _init_setup_model=False,
            **self._stock_arguments(1 if env is None else env.num_envs),
        )
        self.n_epochs = self.config.n_epochs
        self.batch_size = self.config.batch_size

        # 3. Counters, all zero; then policy, buffer and estimator.
        self.rounds = 0
        self.rounds_without_pairs = 0
        self.reward_queries = 0
        self.seconds = 0.0
        self._counted_until = time.perf_counter()
        self._due_iteration: int | None = None
        self.model_spec = {}
        if _init_setup_model:
            self._setup_model()

    # --------------------------------------------------------------- what a subclass says

    @abc.abstractmethod
    def _stock_arguments(self, num_envs: int) -> dict[str, Any]:
        """What else the Stable-Baselines3 class that comes next is built with."""

    def _check_env(self, env: SB3VecEnv) -> None:
        """Checks that there is something to train on in an environment: groups, and what else."""
        check_groups(
            env,
            images=env.num_envs * self.processes.count,
            samples_per_prompt=self.config.samples_per_prompt,
            batches_per_round=self.config.batches_per_round,
            advantage=self.config.advantage,
        )
        if self.config.overlap_rewards:
            check_overlap(env)

    @abc.abstractmethod
    def _new_buffer(self) -> RoundBuffer[Any]:
        """What holds a round's episodes."""

    @abc.abstractmethod
    def _collect_batch(
        self, env: VectorEnv[Any, Any, Any], prompt_ids: npt.NDArray[np.int64]
    ) -> Drawn:
        """Draws one batch of whole episodes; the infos of their last step.

        With ``overlap_rewards`` their rewards are still unknown, see `Episodes.take_scores`.
        """

    @abc.abstractmethod
    def _pairs(self) -> Tensor:
        """An epoch's pairs of an image and a step, or noise level, in a fresh order, ``[M, …]``.

        They are those of all processes, and the same in each.
        """

    @abc.abstractmethod
    def _passes(self, pairs: Tensor) -> Iterable[Any]:
        """This process's part of an update, in passes of at most ``batch_size`` pairs.

        Args:
            pairs: Some of what `_pairs` gave, ``[N, …]``.
        """

    @abc.abstractmethod
    def _loss(self, pairs: Any, *, first: bool) -> tuple[Tensor, NamedTuple]:
        """The mean loss of some pairs, and its figures, of the names in `log_fields`.

        Args:
            pairs: One of what `_passes` gave; its length is the number of pairs.
            first: Nothing was updated yet in this round.
        """

    def _round_ended(self) -> None:
        """Called after a round's updates. Nothing, unless overridden."""

    def _own_figures(self) -> dict[str, float]:
        """What else is logged of a round's updates, by name."""
        return {}

    # ------------------------------------------------------------------------- building

    def _setup_model(self) -> None:
        if not isinstance(self.config, self.config_class):
            raise InvalidInputError(  # loaded from another agent's file
                f"expected an agent with a {self.config_class.__name__}, got one with a "
                f"{type(self.config).__name__}"
            )
        if self.env is not None:
            self._check_env(self.env)
        self._setup_lr_schedule()
        self.rollout_buffer = self._new_buffer()
        self.advantage_estimator = self._new_estimator()
        model, schedule = self._model_and_schedule()
        super().set_random_seed(self.seed)  # adapters start from random numbers
        policy_class: Any = self.policy_class
        self.policy = policy_class(
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            model=model,
            schedule=schedule,
            **self.policy_kwargs,
        )
        self.set_random_seed(self.seed)

    def _new_estimator(self) -> AdvantageEstimator | DecoupledAdvantages:
        """What compares images: of an agent without an environment nothing is compared."""

        def make() -> AdvantageEstimator:
            return make_estimator(
                self.config.advantage,
                buffer_size=self.config.statistics_buffer_size,
                min_count=self.config.statistics_min_count,
            )

        if self.config.multi_objective_aggregation == "sum_then_normalize" or self.env is None:
            return make()
        return DecoupledAdvantages(reward_weights(self.env), make)

    def _model_and_schedule(self) -> tuple[DiffusionModel, Schedule]:
        """The environment's, or, for an agent loaded without one, those it was trained with."""
        if self.env is None:
            if not self.model_spec:
                raise InvalidInputError(
                    "expected an environment to train on, gymnasium.make_vec('DiffusionT2I-v0', "
                    "num_envs=…, array_type='torch'), got none"
                )
            return load_spec(self.model_spec, self.device)
        base = self.env.base_env
        spec = model_spec(base)
        if self.model_spec:
            check_same_weights(self.model_spec, spec)
        self.model_spec = spec
        return base.model.share(), base.schedule  # the policy may outlive the environment

    @property
    def base_env(self) -> DiffusionT2IVectorEnv:
        """The environment below every wrapper.

        Raises:
            InvalidInputError: The agent was loaded without one.
        """
        if self.env is None:
            raise InvalidInputError("expected an agent with an environment, got one without")
        return self.env.base_env

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        self.stopping = False
        self._counted_until = time.perf_counter()
        if not self.processes.alone and self.env is not None:
            for shaping in shapings(self.env.vector_env):
                if isinstance(shaping, B2DiffuRLReward):
                    shaping.share = self.processes.joined
        if not self.processes.is_main:
            progress_bar = False
            self.set_logger(Logger(None, []))
        return super()._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )

    @property
    def _rows(self) -> Rows:
        """This process's rows of the round."""
        return self.processes.rows(self.base_env.num_envs)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seeds python, numpy, torch, the environment, and the agent's own generators.

        The agent's are in the same state in all processes; an environment's rows, and what a reward
        or a wrapper may draw from python, numpy or torch, differ.
        """
        if seed is None or self.processes.is_main or self.env is None:
            super().set_random_seed(seed)
        else:
            others = self.processes.rank * self.env.num_envs
            super().set_random_seed((seed + others) % 2**32)
            self.env.seed(seed + others)
        self.prompt_rng = np.random.default_rng(seed)
        self.shuffle_generator = torch.Generator()
        for offset, generator in enumerate((self.shuffle_generator, self.policy.generator)):
            if seed is None:
                generator.seed()
            else:
                generator.manual_seed(seed + offset)

    # -------------------------------------------------------------------------- a round

    def collect_rollouts(
        self, env: Any, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int
    ) -> bool:
        """Draws one round of images; False where a callback asked to stop.

        What Stable-Baselines3's callbacks know as a step is a batch of images here: ``on_step`` is
        called when one is drawn and counted. A round that is stopped is not trained on.
        """
        del rollout_buffer, n_rollout_steps  # ours holds whole episodes

        # 1. Between two rounds: here callbacks save, evaluate, or end the training.
        self.policy.set_training_mode(False)
        self.rollout_buffer.reset()
        callback.on_rollout_start()
        self.stopping = self.processes.any(self.stopping)
        if self.stopping:
            return False

        # 2. Batches of whole episodes, in groups of images that share their prompt.
        start = time.perf_counter()
        num_steps = env.base_env.schedule.num_steps
        images = env.num_envs * self.processes.count
        with closing(self._batches(env)) as batches:
            for batch, last_infos in batches:
                self.rollout_buffer.add(batch)
                self.num_timesteps += images
                self.reward_queries += images
                spent = self.seconds + time.perf_counter() - self._counted_until
                step = finished_step(batch, num_steps, last_infos, spent)
                callback.update_locals(locals() | step)
                if self.processes.any(not callback.on_step()):
                    return False

        # 3. What each episode is worth beside the others.
        self._assign_advantages()
        self._record_rollout(time.perf_counter() - start)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _batches(self, env: SB3VecEnv) -> Batches:
        """A round's batches, each drawn when it is asked for, or while the last one is scored."""
        drawn = (self._draw_batch(env) for _ in range(self.config.batches_per_round))
        return scored_meanwhile(drawn, env.base_env) if self.config.overlap_rewards else drawn

    def _draw_batch(self, env: SB3VecEnv) -> Drawn:
        """Draws this process's part of one batch, for prompts that are drawn first."""
        prompt_ids = draw_prompts(
            self.prompt_rng,
            len(env.base_env.prompts),
            env.num_envs * self.processes.count,
            self.config.samples_per_prompt,
        )
        own = prompt_ids[self.processes.part(env.num_envs)]
        return self._collect_batch(env.vector_env, own)

    def _assign_advantages(self) -> None:
        """Fills in the advantages of episodes whose wrapper brought none of its own."""
        data, rows = self._everyones_episodes(), self._rows
        failed, images = int((~data.valid).sum()), len(data)
        if failed * MOST_FAILED_OF > images:
            raise RewardFailureError(
                f"the reward could not be computed for {failed} of this round's {images} images; "
                f"expected at most {images // MOST_FAILED_OF}, one in {MOST_FAILED_OF}. The "
                "warnings before say why"
            )
        # A: a wrapper's, or else this agent's own estimate.
        own = data.valid & data.advantages.isnan()
        ids, returns = data.prompt_ids[own].cpu().numpy(), data.returns[own].cpu().numpy()
        if isinstance(self.advantage_estimator, DecoupledAdvantages):
            terms = {k: v[own].cpu().numpy() for k, v in data.reward_terms.items()}
            estimated = torch.as_tensor(self.advantage_estimator.update(ids, terms))
        else:
            estimated = torch.as_tensor(self.advantage_estimator.update(ids, returns))
        data.advantages[own] = estimated.to(data.advantages)
        bound = self.config.advantage_clip
        data.advantages.nan_to_num_(0.0).clamp_(-bound, bound)
        self.rollout_buffer.episodes.advantages = rows.own(data.advantages)
        if not data.advantages.any() and self.processes.is_main:
            warnings.warn(
                f"no image of this round was better or worse than others of its prompt (rewards "
                f"from {returns.min(initial=np.inf):g} to {returns.max(initial=-np.inf):g}), so "
                "there was nothing to learn from it",
                RuntimeWarning,
                stacklevel=2,
            )

    def _everyones_episodes(self) -> Episodes:
        """The episodes of all processes, of which nothing is left that only updates need."""
        data: Episodes = self.rollout_buffer.episodes
        rows = self._rows
        if self.processes.alone:
            return data
        unknown = torch.full_like(data.returns, torch.nan)
        groups: dict[str, dict[str, Tensor]] = {}
        for group in NAMED:
            own: dict[str, Tensor] = getattr(data, group)
            names = dict.fromkeys(self.processes.joined(list(own)))
            groups[group] = {name: rows.everyone(own.get(name, unknown)) for name in names}
        return Episodes(
            prompt_ids=rows.everyone(data.prompt_ids),
            returns=rows.everyone(data.returns),
            valid=rows.everyone(data.valid),
            advantages=rows.everyone(data.advantages),
            **groups,
        )

    def _record_rollout(self, seconds: float) -> None:
        data = self._everyones_episodes()
        assert self.ep_info_buffer is not None
        steps, returns = self.policy.schedule.num_steps, data.returns[data.valid].tolist()
        self.ep_info_buffer.extend({"r": r, "l": steps, "t": seconds} for r in returns)
        for name, value in episode_figures(data).items():
            self.logger.record(name, value)
        self.logger.record("time/rollout_seconds", seconds)

    def train(self) -> None:
        """Updates the policy on the round in the buffer."""
        start = time.perf_counter()

        # 1. Passes over all pairs, in a fresh order each, at a rate that may be a schedule.
        self._update_learning_rate(self.policy.optimizer)
        logs: list[tuple[NamedTuple, int]] = []
        gradient_norms: list[Tensor] = []
        for _ in range(self.n_epochs):
            for update in torch.tensor_split(self._pairs(), self.config.updates_per_round):
                if len(update):
                    first = not gradient_norms
                    gradient_norms.append(self._update(update, logs, first=first))

        # 2. Counters and logs; a round without pairs, as B² may have, counts as well.
        self.policy.optimizer.zero_grad(set_to_none=True)  # room for what evaluations load
        self.rounds += 1
        self.rounds_without_pairs += not gradient_norms
        self._n_updates += len(gradient_norms)
        self._round_ended()
        self._record_update(logs, gradient_norms, time.perf_counter() - start)
        if self._due_iteration is not None:
            super().dump_logs(self._due_iteration)
            self._due_iteration = None

    def _update(self, pairs: Tensor, logs: list[tuple[NamedTuple, int]], *, first: bool) -> Tensor:
        """One optimiser step over some pairs, in as many passes as memory asks for."""
        optimizer, scaler = self.policy.optimizer, self.policy.scaler
        optimizer.zero_grad(set_to_none=True)
        for chunk in self._passes(pairs):
            loss, log = self._loss(chunk, first=first)
            scaler.scale(loss * (len(chunk) / len(pairs))).backward()
            logs.append((log, len(chunk)))
            first = False
        if not self.processes.alone:  # each is a part of the mean over all pairs
            scaler.scale(torch.zeros((), device=self.device))  # its first call, without own pairs
            self.processes.add_gradients(self.policy.trainable_parameters())
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(
            self.policy.trainable_parameters(), self.max_grad_norm
        )
        scaler.step(optimizer)  # not where a float16 gradient overflowed: then the scale is halved
        scaler.update()
        return norm

    def _record_update(
        self, logs: list[tuple[NamedTuple, int]], gradient_norms: list[Tensor], seconds: float
    ) -> None:
        now = time.perf_counter()
        self.seconds += now - self._counted_until
        self._counted_until = now
        images = len(self.rollout_buffer.episodes) * self.processes.count
        if not self.processes.alone:
            logs = self.processes.joined([(_on_host(log), pairs) for log, pairs in logs])
        rollout_seconds = self.logger.name_to_value["time/rollout_seconds"]
        figures = {
            **update_figures(self.log_fields, logs, gradient_norms),
            "train/gradient_scale": self.policy.scaler.get_scale(),
            "train/n_updates": self._n_updates,
            "count/rounds": self.rounds,
            "count/rounds_without_pairs": self.rounds_without_pairs,
            "count/reward_queries": self.reward_queries,
            "count/denoiser_evaluations": self.processes.total(self.policy.denoiser_evaluations),
            "time/update_seconds": seconds,
            "time/seconds": self.seconds,
            "time/images_per_second": images / (seconds + rollout_seconds),
            **self._own_figures(),
        }
        for name, value in figures.items():
            self.logger.record(name, value)

    def dump_logs(self, iteration: int = 0) -> None:
        """Defers the log of a round until its update, so that both stand in one row."""
        self._due_iteration = iteration

    def _embedding(self, prompt_ids: Tensor) -> PromptEmbedding:
        return self.base_env.prompt_embedding(prompt_ids)

    def begin_with(self, weights: Mapping[str, Tensor]) -> None:
        """Gives the policy its first weights, by the names of its `UNetPolicy.state_dict`.

        What it is compared with as its base stays the model's own.
        """
        self.policy.load_state_dict(weights)

    # ------------------------------------------------------------- saving and going on

    COUNTERS: ClassVar[tuple[str, ...]] = (
        *("num_timesteps", "_total_timesteps", "_num_timesteps_at_start", "_episode_num"),
        *("_current_progress_remaining", "_n_updates", "rounds", "rounds_without_pairs"),
        *("reward_queries", "seconds"),
    )
    """Numbers that training changes, for checkpoints."""

    def constructor_arguments(self) -> dict[str, Any]:
        """What builds an agent like this one, besides policy class, environment and device."""
        names = ("policy_kwargs", "tensorboard_log", "verbose", "seed")
        own = {name: getattr(self, name) for name in names}
        return {**vars(self.config), **own, "stats_window_size": self._stats_window_size}

    def stateful_parts(self) -> dict[str, Stateful]:
        """What else has a state that a checkpoint keeps, by name."""
        return {"advantage_estimator": self.advantage_estimator}

    def _excluded_save_params(self) -> list[str]:
        generators = ["prompt_rng", "shuffle_generator"]
        own = [*generators, *self.stateful_parts(), "_last_obs", "ep_info_buffer", "stopping"]
        return [*super()._excluded_save_params(), "processes", *own]

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> SB3VecEnv:
        del verbose, monitor_wrapper
        return wrap_env(env)

    @classmethod
    def load(cls, path: Any, *arguments: Any, **options: Any) -> Self:
        """Loads what ``save`` wrote, as Stable-Baselines3 does; without ``env`` to predict only.

        Such files hold pickles, which may run any code when they are loaded: load only your own.
        Checkpoints (`resume`, `agents.common.load_policy`) hold none.

        Raises:
            InvalidInputError: The file is damaged, or no agent of this kind.
        """
        if isinstance(path, str | os.PathLike):
            path = checked("path", path, str)
        try:
            return super().load(path, *arguments, **options)
        except DiffusionGymError:
            raise
        except LOADING_ERRORS as error:
            raise InvalidInputError(
                f"cannot load an agent from {shown(path)}: expected a file that "
                f"{cls.__name__}.save wrote, got {type(error).__name__}: {first_line(error)}"
            ) from error

    @classmethod
    def resume(
        cls,
        folder: str | Path,
        env: Any,
        policy: str | type[UNetPolicy] = "UNetPolicy",
        **functions: Any,
    ) -> Self:
        """Continues from a checkpoint folder, bit for bit as if it had never stopped.

        On a GPU that takes ``torch.use_deterministic_algorithms(True)`` in both runs: attention
        otherwise adds up its gradients in no fixed order.

        Args:
            folder: A folder written by `agents.common.save_checkpoint`.
            env: An environment made as the first one was, with the same wrappers.
            policy: The policy's class, as the agent was built with.
            **functions: Arguments that were functions, such as ``learning_rate=schedule``.

        Raises:
            InvalidInputError: The checkpoint is damaged, or does not fit the environment.
        """
        return resume_agent(cls, folder, env, policy_class=policy, functions=functions)


def _on_host(log: NamedTuple) -> NamedTuple:
    """The figures of a minibatch where another process can have them."""
    return type(log)(*(value.cpu() for value in log))
