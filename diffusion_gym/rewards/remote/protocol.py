"""What clients and servers of rewards agree on: paths, media types, limits, and JSON.

``docs/rewards.md`` describes the protocol for those who write a server of their own.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from diffusion_gym.checks import Checked, Count
from diffusion_gym.errors import InvalidInputError, first_line, shown
from diffusion_gym.parsing import parse

PROTOCOL = 1
"""The protocol's version; it stands in every message and in every path."""

DESCRIPTION_PATH = f"/v{PROTOCOL}/reward"
PROMPTS_PATH = f"/v{PROTOCOL}/prompts"
SCORES_PATH = f"/v{PROTOCOL}/scores"

JSON = "application/json"
SAFETENSORS = "application/safetensors"

REFUSED = 422
"""The status for prompts or images that the reward refuses."""


@dataclass(frozen=True)
class Limits(Checked):
    """The most that a server takes."""

    body_bytes: Count = 256 * 2**20
    """Bytes of a request; also of its images as float32 numbers, however they are sent."""

    images: Count = 1024
    """Images in a request."""

    side: Count = 4096
    """Height or width of an image, in pixels."""

    requests: Count = 16
    """Requests at once, that being scored included."""


@dataclass(frozen=True)
class Description:
    """Which reward a server has, and what it takes.

    Attributes:
        name: The reward's name.
        version: The reward's version.
        limits: Of the server.
    """

    name: str
    version: str
    limits: Limits

    def message(self) -> dict[str, Any]:
        """The description as a server sends it."""
        return {**about(self.name, self.version), "limits": vars(self.limits)}

    @classmethod
    def read(cls, message: Mapping[str, Any]) -> "Description":
        """The description that a server sent.

        Raises:
            InvalidInputError: It is none.
        """
        limits = message.get("limits")
        if not isinstance(limits, dict):
            raise InvalidInputError(f"expected limits as a JSON object, got {shown(limits)}")
        known = {name: value for name, value in limits.items() if name in vars(Limits())}
        return cls(*reward_of(message), Limits.from_options(known))


def about(name: str, version: str) -> dict[str, Any]:
    """What every answer says of the reward that a server has."""
    return {"protocol": PROTOCOL, "reward": {"name": name, "version": version}}


def reward_of(message: Mapping[str, Any]) -> tuple[str, str]:
    """Name and version of the reward that an answer is about.

    Raises:
        InvalidInputError: It does not say.
    """
    reward = message.get("reward")
    named = reward if isinstance(reward, dict) else {}
    name, version = named.get("name"), named.get("version")
    if not (isinstance(name, str) and name and isinstance(version, str) and version):
        raise InvalidInputError(f"expected a reward's name and version, got {shown(reward)}")
    return name, version


def read_message(data: bytes) -> dict[str, Any]:
    """The JSON object in a message of this protocol's version.

    Raises:
        InvalidInputError: It is no JSON, which has neither NaN nor infinity, or no object, or of
            another version.
    """
    try:
        message = parse(_loads, data.decode())
    except ValueError as error:
        raise InvalidInputError(
            f"expected JSON, got {shown(data[:60])}: {first_line(error)}"
        ) from error
    if not isinstance(message, dict):
        raise InvalidInputError(f"expected a JSON object, got {shown(message, 60)}")
    version = message.get("protocol")
    if type(version) is not int or version != PROTOCOL:
        raise InvalidInputError(
            f"expected version {PROTOCOL} of the protocol, got {shown(version)}"
        )
    return message


def write_message(message: Mapping[str, Any]) -> bytes:
    """A message as JSON."""
    return json.dumps(message, allow_nan=False).encode()


def _loads(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
