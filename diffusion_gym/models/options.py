"""How a model is to be loaded, beyond its name, device and precision."""

import dataclasses
import math
import numbers
import operator
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusion_gym.errors import InvalidInputError, shown, unknown_name
from diffusion_gym.parsing import as_path


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Options of `diffusion_gym.models.load_model`; the defaults suit the small models.

    Attributes:
        variant: Which of a checkpoint's files to load, as in ``model.fp16.safetensors``: "fp16".
            Parts that have no file of it are loaded from their only one.
        revision: Branch, tag or commit of a model on the hub.
        config: Folder, or hub id, that says what is in a single-file checkpoint: a diffusers
            folder of the same kind of model, of which only the small files are needed.
        resolution: Height and width of the images in pixels; None is what the checkpoint was made
            for.
        height: Height alone, for images that are not square; in the place of ``resolution``.
        width: Width alone, likewise.
        vae: Another image decoder than the checkpoint's own: a folder or a hub id of a VAE, or of
            a model that has one, or a single .safetensors file, which is read with the
            configuration of the checkpoint's own VAE. Scaling and shift of latents are those of
            the configuration.
        lora_weights: LoRA weights that diffusers can load (its own, peft's or kohya's names): a
            .safetensors file, a folder or hub id with one. They are fused into the weights of the
            denoiser and the text encoders when these are loaded, so that **the base model is base
            plus LoRA**, for training, for the KL divergence to it, and for exported adapters, which
            belong on top of it.
        lora_scale: What their update of the weights is multiplied with.
        vae_dtype: Precision of the image decoder; None is that of the other networks, but float32
            instead of float16 where the decoder's configuration says that float16 overflows.
        vae_slicing: Decode one image at a time, which takes less memory.
        vae_tiling: Decode large images in overlapping tiles, which takes less memory and changes
            the images slightly.
        free_text_encoders: Let go of the text encoders when the environment's prompts are
            encoded. Prompts it has not met by then are refused.
        t5: Load Stable Diffusion 3's third and largest text encoder; without it the model still
            works, understanding less.
        max_sequence_length: Tokens of that encoder.
        negative_prompt: What guidance leads away from, in all images; None is nothing. Without
            guidance it has no effect, and is refused.
        clip_skip: How many of CLIP's last layers prompts are encoded without, besides those that
            the model leaves out itself; as in diffusers, the negative prompt is encoded with all.
    """

    variant: str | None = None
    revision: str | None = None
    config: str | None = None
    resolution: int | None = None
    height: int | None = None
    width: int | None = None
    vae: str | None = None
    lora_weights: str | None = None
    lora_scale: float = 1.0
    vae_dtype: str | None = None
    vae_slicing: bool = False
    vae_tiling: bool = False
    free_text_encoders: bool = False
    t5: bool = True
    max_sequence_length: int = 256
    negative_prompt: str | None = None
    clip_skip: int = 0

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> "ModelOptions":
        """Options by name, checked.

        Raises:
            InvalidInputError: For an unknown option or a value of a wrong type.
        """
        if not isinstance(options, Mapping):
            raise InvalidInputError(
                f"expected model options as a mapping from names to values, got {shown(options)}"
            )
        values = {name: _plain(value) for name, value in options.items()}
        for name, value in values.items():
            if name not in _TYPES:
                raise unknown_name("model option", name, _TYPES)
            expected = _TYPES[name]
            if expected is float:
                value = values[name] = _number(value)
            if type(value) is not expected and not (value is None and name in _NULLABLE):
                raise InvalidInputError(
                    f"expected model option {name!r} to be of type {expected.__name__}, "
                    f"got {shown(value)}"
                )
            least = _LEAST.get(name, 1)
            if isinstance(value, int) and expected is int and value < least:
                raise InvalidInputError(
                    f"expected model option {name!r} above {least - 1}, got {shown(value)}"
                )
            if isinstance(value, float) and (value == 0 or not math.isfinite(value)):
                raise InvalidInputError(
                    f"expected model option {name!r} to be finite and not 0, got {shown(value)}"
                )
            if isinstance(value, str) and not _is_text(value):
                raise InvalidInputError(
                    f"expected model option {name!r} to be text that UTF-8 can hold, "
                    f"got {shown(value)}"
                )
            if value == "" and name != "negative_prompt":
                raise InvalidInputError(f"expected model option {name!r} to be a text, got ''")
            if isinstance(value, int) and name in _LONGEST and value > _LONGEST[name]:
                raise InvalidInputError(
                    f"expected model option {name!r} up to {_LONGEST[name]}, got {shown(value)}"
                )
        parsed = cls(**values)
        parsed._check_together()
        return parsed

    def _check_together(self) -> None:
        """Checks that no option overrules another, or has no effect without another."""
        if self.resolution is not None and (self.height, self.width) != (None, None):
            raise InvalidInputError(
                "expected the model option 'resolution', or 'height' and 'width', got "
                f"resolution={self.resolution} beside height={self.height}, width={self.width}"
            )
        if self.lora_weights is None:
            self.refuse(("lora_scale",), "for LoRA weights (lora_weights)")

    def absolute(self) -> dict[str, str]:
        """The options that are paths of what is here, as absolute paths, by their names."""
        paths = {}
        for name in ("config", "vae", "lora_weights"):
            value = getattr(self, name)
            if value is not None and (path := as_path(f"model option {name!r}", value)).exists():
                paths[name] = os.path.abspath(path)
        return paths

    def refuse(self, names: tuple[str, ...], why: str) -> None:
        """Refuses options that would have no effect.

        Raises:
            InvalidInputError: If one of them was given.
        """
        for field in dataclasses.fields(self):
            if field.name in names and getattr(self, field.name) != field.default:
                raise InvalidInputError(
                    f"model option {field.name!r} is {why}, got "
                    f"{field.name}={shown(getattr(self, field.name))}"
                )


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain(value: Any) -> Any:
    """Paths as texts, and whole numbers and booleans of every kind as Python's."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, bool | np.bool_):
        return bool(value)
    try:
        return operator.index(value)
    except TypeError:
        return value


def _number(value: Any) -> Any:
    """A real number as Python's float; anything else as it is."""
    try:
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        return float(value) if real else value
    except OverflowError:  # an integer beyond the largest float
        return value


#: Tokens that Stable Diffusion 3's T5 reads at most, as in diffusers' pipeline; and pixels of a
#: side that no decoder comes near.
_LONGEST = {"max_sequence_length": 512, "resolution": 2**16, "height": 2**16, "width": 2**16}
_LEAST = {"clip_skip": 0}
_NULLABLE = tuple(f.name for f in dataclasses.fields(ModelOptions) if f.default is None)
_TYPES: dict[str, type] = {
    f.name: str if f.default is None else type(f.default) for f in dataclasses.fields(ModelOptions)
} | dict.fromkeys(("resolution", "height", "width"), int)
