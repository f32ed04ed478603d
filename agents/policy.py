"""The policy: a denoiser of its own, read as a Gaussian over the next latent."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor

from agents.lora import LoraSettings, add_lora, without_lora
from diffusion_gym.errors import unknown_name
from diffusion_gym.models import DiffusionModel, PromptEmbedding, predict_noise
from diffusion_gym.schedule import DenoisingSchedule, DenoisingStep

AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class PolicyStep(NamedTuple):
    """What the policy does in one step.

    Attributes:
        actions: The next latents, ``[B, C, h, w]``.
        log_prob: Their log-probability, ``[B]``; 0 where the step is deterministic.
        predicted_clean: What the policy takes the clean latents to be, ``[B, C, h, w]``.
    """

    actions: Tensor
    log_prob: Tensor
    predicted_clean: Tensor


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
        guidance: Classifier-free guidance scale; 1 costs one pass over an undoubled batch.
        lora_rank: Rank of LoRA adapters on the attention layers; None trains all weights.
        lora_alpha: LoRA's alpha; None means the rank.
        autocast: Precision of the denoiser's arithmetic: ``"float32"`` (none), ``"bfloat16"`` or
            ``"float16"``. Weights, latents and log-probabilities are float32 in any case.
        log_prob_reduction: ``"mean"`` over latent dimensions (DDPO's convention) or ``"sum"``.
        optimizer_class: The optimiser.
        optimizer_kwargs: Its options, without the learning rate.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        model: DiffusionModel,
        schedule: DenoisingSchedule,
        guidance: float = 1.0,
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        autocast: str = "float32",
        log_prob_reduction: str = "mean",
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.AdamW,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            optimizer_class=optimizer_class,
            optimizer_kwargs={"weight_decay": 1e-4} | (optimizer_kwargs or {}),
        )
        if autocast not in AUTOCAST:
            raise unknown_name("autocast precision", autocast, AUTOCAST)
        self.model = model
        self.schedule = schedule
        self.guidance = float(guidance)
        self.lora = None if lora_rank is None else LoraSettings(lora_rank, lora_alpha)
        self.autocast = autocast
        self.log_prob_reduction = log_prob_reduction
        self.denoiser_evaluations = 0
        self.generator = torch.Generator(model.device)
        self.denoiser = model.new_denoiser()
        if self.lora is None:
            self.denoiser.requires_grad_(True)
        else:
            add_lora(self.denoiser, self.lora)
        self._reference: list[torch.nn.Module] = []  # in a list, so that it is no submodule
        self.optimizer = self.optimizer_class(
            self.trainable_parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
        )

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
        return self._transition(self.denoiser, latents, index, embedding)

    @torch.no_grad()
    def base_transition(
        self, latents: Tensor, index: Tensor, embedding: PromptEmbedding
    ) -> DenoisingStep:
        """`transition` of the model before any training, for the KL penalty."""
        if self.lora is not None:
            with without_lora(self.denoiser):
                return self._transition(self.denoiser, latents, index, embedding)
        if not self._reference:
            self._reference.append(self.model.new_denoiser())
        return self._transition(self._reference[0], latents, index, embedding)

    def _transition(
        self, denoiser: torch.nn.Module, latents: Tensor, index: Tensor, embedding: PromptEmbedding
    ) -> DenoisingStep:
        self.denoiser_evaluations += len(latents) * (1 if self.guidance == 1.0 else 2)
        with self._autocast():
            output = predict_noise(
                denoiser,
                latents,
                self.schedule.timesteps[index],
                embedding,
                null_embedding=None if self.guidance == 1.0 else self.model.null_embedding,
                guidance=self.guidance,
            )
        return self.schedule.transition(output, latents, index)

    def log_prob(self, actions: Tensor, step: DenoisingStep) -> Tensor:
        """Log-probability of actions, ``[B]`` float32, reduced as the policy was told."""
        return self.schedule.log_prob(actions, step, self.log_prob_reduction)

    @torch.no_grad()
    def act(self, observation: dict[str, Tensor], deterministic: bool = False) -> PolicyStep:
        """Draws the next latents for a batch of observations, with the policy's own generator."""
        index = self.schedule.index_of(observation["timestep"].flatten())
        embedding = PromptEmbedding.observed(observation)
        step = self.transition(observation["latent"], index, embedding)
        if deterministic:
            actions = step.mean
        else:
            actions = self.schedule.sample(step, generator=self.generator)
        log_prob = (
            self.log_prob(actions, step) if step.stochastic else step.mean.new_zeros(len(index))
        )
        return PolicyStep(actions, log_prob, step.predicted_clean)

    def _predict(self, observation: dict[str, Tensor], deterministic: bool = False) -> Tensor:
        return self.act(observation, deterministic).actions

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
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

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = AUTOCAST[self.autocast]
        if dtype is None:
            return nullcontext()
        return torch.autocast(self.model.device.type, dtype=dtype)
