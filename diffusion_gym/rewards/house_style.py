"""Does a picture follow the house style: its object, drawn in one style, on one background?"""

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion_gym.emoji64.scenes import BACKGROUNDS, STYLES, parse
from diffusion_gym.emoji64.verifier import SceneVerifier
from diffusion_gym.errors import unknown_name
from diffusion_gym.rewards.base import RewardResult


class HouseStyle:
    """Mean of three probabilities, as the scene verifier sees them.

    ``style``: that the picture's objects are drawn in the wished style, each cell of the verifier's
    grid weighted by the probability that an object is centred there. ``background``: that the
    background has the wished colour. ``object``: that an object of the prompt is there, at the best
    cell; for a prompt of two objects the mean over both.

    Args:
        verifier: The network that reads the pictures.
        style: One of :data:`diffusion_gym.emoji64.scenes.STYLES`.
        background: A name in :data:`diffusion_gym.emoji64.scenes.BACKGROUNDS`.

    Raises:
        InvalidInputError: Style or background is unknown.
    """

    name = "house_style"
    version = "1"

    def __init__(
        self, verifier: SceneVerifier, style: str = "3d", background: str = "white"
    ) -> None:
        if style not in STYLES:
            raise unknown_name("style", style, STYLES)
        if background not in BACKGROUNDS:
            raise unknown_name("background", background, BACKGROUNDS)
        self.style = style
        self.background = background
        self._verifier = verifier
        self._device = verifier.bg.weight.device

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> RewardResult:
        """Scores images [B, 3, H, W] in [0, 1].

        Raises:
            InvalidInputError: A prompt is not of the grammar in
                :mod:`diffusion_gym.emoji64.scenes`.
        """
        wanted = [parse(prompt).objects for prompt in prompts]
        maps = self._verifier(images.to(self._device, torch.float32))
        there = maps.objectness.sigmoid()
        styled = maps.styles.softmax(dim=1)[:, STYLES.index(self.style)]
        colours = maps.backgrounds.softmax(dim=1)
        best = (there.unsqueeze(1) * maps.classes.softmax(dim=1)).amax(dim=(2, 3))
        objects = [
            row[[stated.object_index for stated in objects]].mean()
            for row, objects in zip(best, wanted, strict=True)
        ]
        terms = {
            "style": (there * styled).sum(dim=(1, 2)) / there.sum(dim=(1, 2)),
            "background": colours[:, list(BACKGROUNDS).index(self.background)],
            "object": torch.stack(objects),
        }
        return RewardResult.from_values(torch.stack(list(terms.values())).mean(dim=0), terms)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Reads prompts without scoring anything.

        Raises:
            InvalidInputError: A prompt is not of the grammar.
        """
        for prompt in prompts:
            parse(prompt)

    def __repr__(self) -> str:
        return f"HouseStyle(style={self.style!r}, background={self.background!r})"
