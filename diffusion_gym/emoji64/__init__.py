"""The embedded model's world: the language of its scenes, its data, and what reads its pictures.

`diffusion_gym.emoji64.verifier`, the network that reads pictures, is not imported here: it needs
torch, and the language does not.
"""

from diffusion_gym.emoji64.folder import emoji64_folder
from diffusion_gym.emoji64.scenes import (
    BACKGROUNDS,
    COUNTS,
    KINDS,
    OBJECTS,
    RELATIONS,
    STYLES,
    Scene,
    StatedObject,
    caption,
    parse,
)

__all__ = [
    "BACKGROUNDS",
    "COUNTS",
    "KINDS",
    "OBJECTS",
    "RELATIONS",
    "STYLES",
    "Scene",
    "StatedObject",
    "caption",
    "emoji64_folder",
    "parse",
]
