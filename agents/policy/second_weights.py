"""Another set of the weights that a policy trains, for the same network."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from agents.policy.lora import ADAPTER, add_second_lora, other_lora
from agents.policy.unet_policy import UNetPolicy
from diffusion_gym.errors import InvalidInputError

NAME = "second"


class SecondWeights:
    """Weights beside those that a policy trains, which follow them when told to.

    Where LoRA trains, these are second adapters of the same network, and the frozen weights are
    shared; where all weights train, a second denoiser in float32, and there is no third.

    Args:
        policy: The policy; the weights begin as its own are.
    """

    def __init__(self, policy: UNetPolicy) -> None:
        self._policy = policy
        if policy.lora is not None:
            add_second_lora(policy.denoiser, policy.lora, NAME)
            self._denoiser = policy.denoiser
        else:
            self._denoiser = policy.new_denoiser().requires_grad_(False)
            self._denoiser.load_state_dict(policy.denoiser.state_dict())

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The policy with these weights, for the time of a ``with`` block; without gradients."""
        policy, own = self._policy, self._policy.denoiser
        with torch.no_grad():
            if policy.lora is not None:
                with other_lora(own, NAME):
                    yield
                return
            policy.denoiser = self._denoiser
            try:
                yield
            finally:
                policy.denoiser = own

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Moves towards the trained weights: w ← d w + (1 − d) w_trained.

        Args:
            decay: d, from 0, all the way, to 1, not at all.
        """
        for second, trained in self._pairs().values():
            second.lerp_(trained, 1 - decay)

    def _pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Each of these weights beside the one that is trained, by the latter's name."""
        mine = dict(self._denoiser.named_parameters())
        lora = self._policy.lora is not None
        return {
            name: (mine[name.replace(f".{ADAPTER}.", f".{NAME}.") if lora else name].data, trained)
            for name, trained in self._policy.denoiser.named_parameters()
            if trained.requires_grad
        }

    def state_dict(self) -> dict[str, Any]:
        """The weights, by the names of those that are trained."""
        return {name: second for name, (second, _) in self._pairs().items()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Takes the weights up again.

        Args:
            state: From `state_dict`.
            strict: As Stable-Baselines3 asks; names and shapes must fit in any case.

        Raises:
            InvalidInputError: Names or shapes are not those of this policy.
        """
        del strict
        own = self.state_dict()
        wrong = sorted(own.keys() ^ state.keys()) or [
            name
            for name, value in own.items()
            if (value.shape, value.dtype) != (state[name].shape, state[name].dtype)
        ]
        if wrong:
            raise InvalidInputError(
                f"expected {len(own)} second weights as this policy trains, got {len(state)}, of "
                f"which these do not fit: {', '.join(wrong[:4])}"
            )
        for name, value in own.items():
            value.copy_(state[name])
