"""Images and prompts as the bytes of a request: raw tensors, or PNG in JSON."""

import base64
import binascii
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import safetensors
import torch
from PIL import Image
from safetensors.torch import load, save
from torch import Tensor

from diffusion_gym.errors import InvalidInputError, first_line, shown
from diffusion_gym.images import to_uint8
from diffusion_gym.rewards.remote.protocol import (
    JSON,
    PROTOCOL,
    SAFETENSORS,
    Limits,
    read_message,
    write_message,
)

Encoding = Literal["raw", "png"]
"""Float32 tensors as they are, or 8 bits a colour, compressed without loss."""

FAST_COMPRESSION = 1
"""zlib's level for PNG: the default takes several times as long for a tenth of the bytes."""


class RequestTooLargeError(InvalidInputError):
    """A request is beyond a server's limits."""


class ScoreRequest(NamedTuple):
    """What is to be scored.

    Attributes:
        key: A text that the answer repeats.
        images: Float32 images [B, 3, H, W].
        prompts: B prompts.
    """

    key: str
    images: Tensor
    prompts: list[str]


def write_request(request: ScoreRequest, encoding: Encoding) -> tuple[str, bytes]:
    """The media type and the bytes of a request."""
    message = {"protocol": PROTOCOL, "key": request.key, "prompts": request.prompts}
    if encoding == "png":
        pictures = [_to_png(image) for image in to_uint8(request.images).numpy()]
        images = [base64.b64encode(picture).decode() for picture in pictures]
        return JSON, write_message({**message, "images": images})
    text = torch.frombuffer(bytearray(write_message(message)), dtype=torch.uint8)
    return SAFETENSORS, save({"images": request.images.contiguous(), "message": text})


def read_request(media_type: str, body: bytes, limits: Limits) -> ScoreRequest:
    """The request that a client sent.

    Raises:
        InvalidInputError: It is none.
        RequestTooLargeError: It is more than the server takes.
    """
    if media_type == SAFETENSORS:
        images, message = _read_tensors(body)
        _check_size(images.shape, limits)
    else:
        message = read_message(body)
        images = _read_pictures(message, limits)
    key, prompts = message.get("key"), texts_of(message)
    if not isinstance(key, str):
        raise InvalidInputError(f"expected a text as the key, got {shown(key)}")
    if len(prompts) != len(images):
        raise InvalidInputError(
            f"expected one prompt per image, got {len(images)} images and {len(prompts)} prompts"
        )
    return ScoreRequest(key, images, prompts)


def texts_of(message: Mapping[str, Any]) -> list[str]:
    """The prompts in a message.

    Raises:
        InvalidInputError: There are none, or something else.
    """
    prompts = message.get("prompts")
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        raise InvalidInputError(f"expected prompts as a list of texts, got {shown(prompts)}")
    return prompts


def _read_tensors(body: bytes) -> tuple[Tensor, dict[str, Any]]:
    try:
        tensors = load(body)
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise InvalidInputError(f"expected safetensors, got {first_line(error)}") from error
    images, text = tensors.get("images"), tensors.get("message")
    if images is None or images.dtype != torch.float32 or images.ndim != 4 or images.shape[1] != 3:
        found = "none" if images is None else f"{images.dtype} of shape {list(images.shape)}"
        raise InvalidInputError(f"expected a float32 tensor images [B, 3, H, W], got {found}")
    if text is None or text.dtype != torch.uint8 or text.ndim != 1:
        raise InvalidInputError("expected a uint8 tensor message [N], of JSON")
    return images, read_message(text.numpy().tobytes())


def _read_pictures(message: Mapping[str, Any], limits: Limits) -> Tensor:
    """Float32 images [B, 3, H, W] of the PNG files in a message."""
    files = message.get("images")
    if not isinstance(files, list) or not files:
        raise InvalidInputError("expected images as a list of PNG files in base64")
    pictures = []
    for number, file in enumerate(files):
        try:
            data = base64.b64decode(file, validate=True)
            picture = Image.open(io.BytesIO(data), formats=("PNG",))
            _check_size((len(files), 3, picture.height, picture.width), limits)
            if picture.mode != "RGB":
                raise InvalidInputError(f"expected three colours, got mode {picture.mode}")
            pictures.append(np.array(picture))
        except RequestTooLargeError:
            raise
        except Exception as error:  # a damaged file raises errors of many unrelated classes
            reason = "no base64" if isinstance(error, binascii.Error) else first_line(error)
            raise InvalidInputError(
                f"expected a PNG file in base64 as image {number}, got: {reason}"
            ) from error
    shapes = sorted({picture.shape[:2] for picture in pictures})
    if len(shapes) > 1:
        raise InvalidInputError(f"expected images of one size, got {shown(shapes)}")
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div(255.0).contiguous()


def _check_size(shape: Sequence[int], limits: Limits) -> None:
    count, _, height, width = shape
    if min(count, height, width) < 1:
        raise InvalidInputError(f"expected images [B, 3, H, W] with pixels, got {list(shape)}")
    most = f"{limits.images} images of at most {limits.side} pixels a side"
    if count > limits.images or max(height, width) > limits.side:
        raise RequestTooLargeError(f"expected at most {most}, got {count} of {height} x {width}")
    if image_bytes(height, width) * count > limits.body_bytes:
        raise RequestTooLargeError(
            f"expected images of at most {limits.body_bytes} bytes as float32 numbers, "
            f"got {count} of {height} x {width}"
        )


def image_bytes(height: int, width: int) -> int:
    """Bytes of an image of float32 numbers."""
    return 3 * height * width * 4


def _to_png(pixels: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=FAST_COMPRESSION)
    return stream.getvalue()
