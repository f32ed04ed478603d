"""The network that reads an emoji picture back into the facts of its scene.

A small CenterNet-like convolutional network (arXiv 1904.07850): on a grid of 16 x 16 cells it
predicts whether an object is centred there, which one, and in which style; from pooled features it
predicts the background's colour.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_gym.emoji64.facts import DetectedObject, DetectedScene, check_scene
from diffusion_gym.emoji64.scenes import BACKGROUNDS, STYLES, Scene
from diffusion_gym.errors import ModelLoadError
from diffusion_gym.images import resize

IMAGE_SIZE = 64
"""Height and width that the network was trained on; other images are resized to it."""

_BACKGROUND_NAMES = tuple(BACKGROUNDS)


class SceneMaps(NamedTuple):
    """What the network says about each cell of its grid, and about the background; all logits.

    Attributes:
        objectness: Whether an object is centred in the cell [B, h, w].
        classes: Which object it is [B, objects, h, w].
        styles: In which style it is drawn [B, styles, h, w].
        backgrounds: Colour of the background [B, colours].
    """

    objectness: Tensor
    classes: Tensor
    styles: Tensor
    backgrounds: Tensor


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
    )


class _Block(nn.Module):
    """Two convolutions beside an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a = _convolution(width, width)
        self.b = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, features: Tensor) -> Tensor:
        return F.silu(features + self.b(self.a(features)))


def _blocks(width: int, count: int) -> list[_Block]:
    return [_Block(width) for _ in range(count)]


class SceneVerifier(nn.Module):
    """Finds objects, styles and background of 64x64 emoji pictures.

    Args:
        classes: Number of objects it tells apart.
        styles: Number of drawing styles.
        backgrounds: Number of background colours.
        widths: Channels at full, half, quarter and eighth resolution.
        blocks: Residual blocks at half, quarter, eighth and, after fusion, quarter resolution.
        threshold: Least objectness of a detected object.
        nms: A detected object is the largest of this many cells squared around it.
        min_class_prob: Least probability of a detected object's class.
        relation_margin: Least distance of two objects in a relation, in pixels along its axis.
    """

    def __init__(
        self,
        classes: int,
        styles: int,
        backgrounds: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        threshold: float,
        nms: int,
        min_class_prob: float,
        relation_margin: float,
    ) -> None:
        super().__init__()
        full, half, quarter, eighth = widths
        self.threshold = threshold
        self.nms = nms
        self.min_class_prob = min_class_prob
        self.relation_margin = relation_margin
        self.split = (1, classes, styles)
        self.stem = nn.Sequential(
            _convolution(3, full),
            _convolution(full, half, 2),
            *_blocks(half, blocks[0]),
            _convolution(half, quarter, 2),
            *_blocks(quarter, blocks[1]),
        )
        self.deep = nn.Sequential(_convolution(quarter, eighth, 2), *_blocks(eighth, blocks[2]))
        self.up = nn.Conv2d(eighth, quarter, 1)
        self.last = nn.Sequential(*_blocks(quarter, blocks[3]))
        self.head = nn.Conv2d(quarter, sum(self.split), 1)
        self.bg = nn.Linear(quarter + eighth, backgrounds)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Loads the network from a folder, on the CPU, frozen and in evaluation mode.

        Args:
            folder: Holds ``config.json`` and ``model.safetensors``.

        Raises:
            ModelLoadError: A file is missing, damaged or of another architecture.
        """
        config_file, weights_file = Path(folder) / "config.json", Path(folder) / "model.safetensors"
        for file in (config_file, weights_file):
            if not file.is_file():
                raise ModelLoadError(f"the scene verifier needs {file}, which does not exist")
        try:
            config = json.loads(config_file.read_text(encoding="utf-8"))
            verifier = cls(**config["architecture"])
            # load_state_dict converts the half precision of the file to the modules' float32.
            verifier.load_state_dict(load_file(weights_file))
        except Exception as error:
            raise ModelLoadError(f"cannot load a scene verifier from {folder}: {error}") from error
        # On a CPU the channels-last layout takes about half the time.
        verifier.to(memory_format=torch.channels_last)
        return verifier.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> SceneMaps:
        """Reads pictures.

        Args:
            images: Images [B, 3, H, W] in [0, 1].

        Returns:
            The maps, on a grid of 16 x 16 cells.
        """
        features = self.stem(resize(images, IMAGE_SIZE) * 2.0 - 1.0)
        deep = self.deep(features)
        fused = F.silu(features + F.interpolate(self.up(deep), scale_factor=2.0))
        objectness, classes, styles = self.head(self.last(fused)).split(self.split, dim=1)
        pooled = torch.cat([features.mean((2, 3)), deep.mean((2, 3))], dim=1)
        return SceneMaps(objectness.squeeze(1), classes, styles, self.bg(pooled))

    @torch.no_grad()
    def detect(self, images: Tensor) -> list[DetectedScene]:
        """Lists the objects of pictures: the local maxima of objectness above the threshold.

        Args:
            images: Images [B, 3, H, W] in [0, 1].

        Returns:
            One scene per picture; positions in pixels of the picture given.
        """
        maps: SceneMaps = self(images)
        # Maxima are those of the logits: sigmoids of neighbours may both round to the same value.
        logits = maps.objectness
        around = F.max_pool2d(logits.unsqueeze(1), self.nms, 1, self.nms // 2).squeeze(1)
        objectness = logits.sigmoid()
        probabilities, indices = maps.classes.softmax(dim=1).max(dim=1)
        peaks = (logits == around) & (objectness > self.threshold)
        rows, ys, xs = (peaks & (probabilities > self.min_class_prob)).nonzero(as_tuple=True)
        height, width = (
            side / cells
            for side, cells in zip(images.shape[-2:], objectness.shape[-2:], strict=True)
        )
        columns = (
            indices[rows, ys, xs],
            maps.styles.argmax(dim=1)[rows, ys, xs],
            (xs + 0.5) * width,
            (ys + 0.5) * height,
            objectness[rows, ys, xs],
            probabilities[rows, ys, xs],
        )
        found: list[list[DetectedObject]] = [[] for _ in range(len(images))]
        table = zip(*(column.tolist() for column in columns), strict=True)
        for row, (index, style, *rest) in zip(rows.tolist(), table, strict=True):
            found[row].append(DetectedObject(index, STYLES[style], *rest))
        likeliest, colours = maps.backgrounds.softmax(dim=1).max(dim=1)
        return [
            DetectedScene(tuple(objects), _BACKGROUND_NAMES[colour], probability)
            for objects, colour, probability in zip(
                found, colours.tolist(), likeliest.tolist(), strict=True
            )
        ]

    def check(self, found: DetectedScene, wanted: Scene) -> dict[str, bool]:
        """Compares a picture with the scene that its caption states.

        Args:
            found: What :meth:`detect` found in the picture.
            wanted: What the caption states, by :func:`diffusion_gym.emoji64.scenes.parse`.

        Returns:
            As :func:`diffusion_gym.emoji64.facts.check_scene`.
        """
        return check_scene(found, wanted, self.relation_margin)
