"""The policy: a denoiser of its own, read as a Gaussian over the next latent."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor
from torch.optim import Optimizer

from agents.policy.config import PolicyConfig
from agents.policy.lora import LoraSettings, add_lora, without_lora
from agents.policy.optimizers import make_optimizer
from agents.policy.precision import Precision
from diffusion_gym.checks import takes
from diffusion_gym.errors import InvalidInputError
from diffusion_gym.models import Denoiser, DiffusionModel, PromptEmbedding, guided_prediction
from diffusion_gym.models.embedding import NEGATIVE
from diffusion_gym.schedules.base import DenoisingStep, Schedule


class PolicyStep(NamedTuple):
    """What the policy does in one step.

    Attributes:
        actions: The next latents, ``[B, C, h, w]``.
        log_prob: Their log-probability, ``[B]``; 0 where the step is deterministic.
        gaussian: What they were drawn from, with the predicted clean latents.
    """

    actions: Tensor
    log_prob: Tensor
    gaussian: DenoisingStep


class UNetPolicy(BasePolicy):
    """π(a | s) = N(μ_θ(x_i, t_i, c), σ_i² I) around a denoiser (DDPO, arXiv 2305.13301).

    The denoiser stays in eval mode throughout: dropout or batch statistics would make the
    log-probabilities of the update differ from those of the rollout.

    Args:
        observation_space: The environment's.
        action_space: The environment's.
        lr_schedule: Learning rate as a function of the remaining progress.
        model: The model to take a fresh denoiser from.
        schedule: The environment's denoising schedule.
        **config: The fields of `PolicyConfig`.

    Raises:
        InvalidInputError: An unknown name, or a target that the denoiser does not have.
    """

    config: PolicyConfig
    """How the denoiser is evaluated, and which of its weights train."""

    model: DiffusionModel
    """Where denoiser and prompt embeddings come from."""

    schedule: Schedule
    """The maths of a denoising step."""

    denoiser: Denoiser
    """The network that is trained."""

    optimizer: Optimizer
    """What trains it."""

    scaler: torch.amp.GradScaler
    """Keeps gradients in float16's range; does nothing in other precisions."""

    precision: Precision
    """Of the denoiser's arithmetic and of its frozen weights."""

    lora: LoraSettings | None
    """The adapters; None where all weights train."""

    generator: torch.Generator
    """Source of the actions' noise."""

    denoiser_evaluations: int
    """Evaluations of the denoiser so far, one per row and, with guidance, two."""

    @takes(PolicyConfig)
    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Callable[[float], float],
        *,
        model: DiffusionModel,
        schedule: Schedule,
        **config: Any,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.config = PolicyConfig.from_options(config, type(self).__name__)
        self.model = model
        self.schedule = schedule
        negative_prompts = isinstance(observation_space, spaces.Dict) and (
            NEGATIVE in observation_space.spaces
        )
        model.check_guidance(self.config.guidance, negative_prompts=negative_prompts)

        # 1. The denoiser, of which all weights train, or adapters only.
        self.precision = Precision.of(model, self.config.autocast)
        self.lora = LoraSettings.of(self.config)
        self.denoiser = self.new_denoiser()
        self._reference: list[Denoiser] = []  # in a list, so that it is no submodule
        self.denoiser_evaluations = 0

        # 2. What trains it.
        options = {"weight_decay": 1e-4} | dict(self.config.optimizer_kwargs or {})
        self.optimizer = make_optimizer(
            self.config.optimizer, self.trainable_parameters(), lr_schedule(1), **options
        )
        self.scaler = self.precision.new_scaler()

        self.generator = torch.Generator(model.device)
        self.eval()  # adapters come in training mode

    @property
    def guidance(self) -> float:
        """Classifier-free guidance scale."""
        return self.config.guidance

    def new_denoiser(self) -> Denoiser:
        """A denoiser as this policy's is before any training, which shares nothing with it."""
        if self.lora is None:
            denoiser = self.model.new_denoiser().requires_grad_(True)
        else:
            denoiser = self.model.new_denoiser(self.precision.frozen)
            add_lora(denoiser, self.lora)
        if self.config.gradient_checkpointing:
            denoiser.network.enable_gradient_checkpointing()  # works in eval mode, too
        if self.config.compile:
            denoiser.network.compile()  # in place: names of parameters stay as they are
        return denoiser

    def trainable_parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that training changes."""
        return [p for p in self.denoiser.parameters() if p.requires_grad]

    def train(self, mode: bool = True) -> "UNetPolicy":
        """Keeps the policy in eval mode, whatever Stable-Baselines3 asks for."""
        del mode
        return super().train(False)

    def transition(
        self, latents: Tensor, index: Tensor, embedding: PromptEmbedding
    ) -> DenoisingStep:
        """The Gaussian over the next latent.

        Args:
            latents: x_i, ``[B, C, h, w]``.
            index: Step index of every row, ``[B]``.
            embedding: Prompt embeddings of every row.

        Returns:
            Its mean and standard deviation, and the predicted clean latent.
        """
        output = self._output(self.denoiser, latents, self.schedule.timesteps[index], embedding)
        return self.schedule.transition(output, latents, index)

    @torch.no_grad()
    def base_transition(
        self, latents: Tensor, index: Tensor, embedding: PromptEmbedding
    ) -> DenoisingStep:
        """`transition` of the model before any training, for the KL divergence to it.

        Where all weights train, this is a second denoiser, loaded when it is first needed and
        kept in the precision of frozen weights: in a half precision, its rounded weights are not
        exactly those that training started from.
        """
        with self._base_denoiser() as denoiser:
            output = self._output(denoiser, latents, self.schedule.timesteps[index], embedding)
        return self.schedule.transition(output, latents, index)

    def predicted_clean(
        self, latents: Tensor, timesteps: Tensor, embedding: PromptEmbedding
    ) -> Tensor:
        """x̂0, ``[B, C, h, w]`` float32, of latents at any training timestep.

        Args:
            latents: x_t, ``[B, C, h, w]``.
            timesteps: t of every row, ``[B]``; they need not be the sampler's.
            embedding: Prompt embeddings of every row.
        """
        output = self._output(self.denoiser, latents, timesteps, embedding)
        return self.schedule.clean_at(output, latents, timesteps)

    @torch.no_grad()
    def base_predicted_clean(
        self, latents: Tensor, timesteps: Tensor, embedding: PromptEmbedding
    ) -> Tensor:
        """`predicted_clean` of the model before any training, as `base_transition` has it."""
        with self._base_denoiser() as denoiser:
            output = self._output(denoiser, latents, timesteps, embedding)
        return self.schedule.clean_at(output, latents, timesteps)

    @contextmanager
    def _base_denoiser(self) -> Iterator[Denoiser]:
        """The denoiser before any training, for the time of a ``with`` block."""
        if self.lora is not None:
            with without_lora(self.denoiser):
                yield self.denoiser
            return
        if not self._reference:
            self._reference.append(self.model.new_denoiser(self.precision.frozen))
        yield self._reference[0]

    def forget_base(self) -> None:
        """Frees the second denoiser of `base_transition`, which is loaded again when needed."""
        self._reference.clear()

    def _output(
        self, denoiser: Denoiser, latents: Tensor, timesteps: Tensor, embedding: PromptEmbedding
    ) -> Tensor:
        """What a denoiser predicts, guided and counted."""
        self.denoiser_evaluations += len(latents) * (1 if self.guidance == 1.0 else 2)
        with self.precision.autocast():
            return guided_prediction(
                denoiser,
                latents,
                timesteps,
                embedding,
                null_embedding=None if self.guidance == 1.0 else self.model.null_embedding,
                guidance=self.guidance,
            )

    def log_prob(self, actions: Tensor, step: DenoisingStep) -> Tensor:
        """Log-probability of actions, ``[B]`` float32, reduced as the policy was told."""
        return self.schedule.log_prob(actions, step, self.config.log_prob_reduction)

    @torch.no_grad()
    def act(
        self,
        observation: dict[str, Tensor],
        deterministic: bool = False,
        *,
        noise: Tensor | None = None,
    ) -> PolicyStep:
        """Draws the next latents for a batch of observations.

        Args:
            observation: The environment's.
            deterministic: Take the means.
            noise: Standard normal noise of the latents' shape; None draws it with the policy's own
                generator.
        """
        step = self.transition(*self.conditions(observation))
        if deterministic:
            actions = step.mean
        else:
            generator = self.generator if noise is None else None
            actions = self.schedule.sample(step, generator=generator, noise=noise)
        log_prob = (
            self.log_prob(actions, step) if step.stochastic else step.mean.new_zeros(len(actions))
        )
        return PolicyStep(actions, log_prob, step)

    def conditions(self, observation: dict[str, Tensor]) -> tuple[Tensor, Tensor, PromptEmbedding]:
        """A batch of observations as the arguments of `transition`."""
        index = self.schedule.index_of(observation["timestep"].flatten())
        return observation["latent"], index, PromptEmbedding.observed(observation)

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        """Actions for others than the training, whose evaluations of the denoiser it counts."""
        counted = self.denoiser_evaluations
        actions = self.act(observation, deterministic).actions
        self.denoiser_evaluations = counted
        return actions

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Only what training changes; frozen weights belong to the model, not to the policy."""
        trainable = {name for name, p in self.named_parameters() if p.requires_grad}
        state = super().state_dict(*args, **kwargs)
        return {name: value for name, value in state.items() if name in trainable}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Loads what `state_dict` returned.

        Raises:
            RuntimeError: The keys are not those of this policy's trainable parameters.
        """
        expected = set(self.state_dict())
        if strict and set(state_dict) != expected:
            wrong = sorted(expected ^ set(state_dict))
            raise RuntimeError(
                f"expected the {len(expected)} trainable parameters of this policy, got "
                f"{len(state_dict)}; in only one of the two: {', '.join(wrong[:4])}, …"
            )
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def save(self, path: str) -> None:
        """Refused: a policy is saved with its agent, or exported.

        Raises:
            InvalidInputError: Always.
        """
        raise _saved_elsewhere("save", path)

    @classmethod
    def load(cls, path: str, device: torch.device | str = "auto") -> "UNetPolicy":
        """Refused: a policy cannot be built without its model.

        Raises:
            InvalidInputError: Always.
        """
        raise _saved_elsewhere("load", path)


def _saved_elsewhere(method: str, path: str) -> InvalidInputError:
    return InvalidInputError(
        "a UNetPolicy holds what was trained, but not its model: expected DiffusionPPO.save(path) "
        "and DiffusionPPO.load(path).policy, or agents.policy.export(policy, folder) for "
        f"diffusers' pipelines; got UNetPolicy.{method}({str(path)!r})"
    )
