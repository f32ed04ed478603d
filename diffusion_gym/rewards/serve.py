"""Serves a reward to other machines: ``python -m diffusion_gym.rewards.serve --reward NAME``."""

import argparse
import contextlib
import importlib
import json
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from diffusion_gym.errors import DiffusionGymError, InvalidInputError, ModelLoadError, first_line
from diffusion_gym.parsing import parse
from diffusion_gym.rewards.base import RewardFunction
from diffusion_gym.rewards.registry import make_reward, reward_names
from diffusion_gym.rewards.remote.protocol import DESCRIPTION_PATH, Limits

GRACE_SECONDS = 10
"""How long requests may go on after Ctrl-C or SIGTERM."""


def serve(
    reward: RewardFunction,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
) -> None:
    """Serves a reward until Ctrl-C or SIGTERM.

    Whoever can reach the port can have images scored: there is no password, and no encryption.

    Args:
        reward: As `make_reward` makes it.
        host: The address to listen at; ``"0.0.0.0"`` is every one of this machine.
        port: The port; 0: one that is free.
        limits: The most that a request may be; None: the defaults.

    Raises:
        InvalidInputError: Nothing can listen there.
        ModelLoadError: starlette or uvicorn is not installed.
    """
    try:
        import uvicorn

        from diffusion_gym.rewards.server import reward_app
    except ImportError as error:
        raise ModelLoadError(
            'serving a reward needs starlette and uvicorn: pip install "diffusion-gym[remote]"'
        ) from error
    with listen(host, port) as listening:
        shown_host = f"[{host}]" if ":" in host else host
        url = f"http://{shown_host}:{listening.getsockname()[1]}"
        print(f"{reward.name}, version {reward.version}, at {url}{DESCRIPTION_PATH}", flush=True)
        config = uvicorn.Config(
            reward_app(reward, limits),
            log_level="warning",
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        with contextlib.suppress(KeyboardInterrupt):  # which uvicorn hands on when it has ended
            uvicorn.Server(config).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections.

    It names its protocol: asyncio sends answers without delay on such sockets only.

    Raises:
        InvalidInputError: Nothing can listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()
    except (OSError, OverflowError) as error:
        listening.close()
        raise InvalidInputError(f"cannot listen at {host}:{port}: {first_line(error)}") from error
    return listening


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves the reward that the options name; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m diffusion_gym.rewards.serve",
        description="Serves a reward to other machines over HTTP. There is no password and no "
        f"encryption: keep it in a network that you trust. Rewards: {', '.join(reward_names())}.",
    )
    default = Limits()
    parser.add_argument("--reward", required=True, help="a registered name, or weights as JSON")
    parser.add_argument("--reward-options", default="{}", metavar="JSON", help="its options")
    parser.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module that registers rewards; may be given repeatedly",
    )
    parser.add_argument("--device", default="auto", help="where its networks run")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: all addresses of the machine")
    parser.add_argument("--port", type=int, default=8000, help="0: one that is free")
    for name, text in (
        ("body-bytes", "bytes of a request"),
        ("images", "images of a request"),
        ("side", "height or width of an image"),
        ("requests", "requests at once"),
    ):
        usual = getattr(default, name.replace("-", "_"))
        parser.add_argument(
            f"--max-{name}", type=int, default=usual, metavar="N", help=f"{text} ({usual})"
        )
    options = parser.parse_args(arguments)
    try:
        limits = Limits(
            **{name: getattr(options, f"max_{name}") for name in vars(default)},
        )
        serve(_made(options), host=options.host, port=options.port, limits=limits)
    except DiffusionGymError as error:
        parser.exit(2, f"error: {error}\n")
    return 0


def _made(options: argparse.Namespace) -> RewardFunction:
    """The reward that options name."""
    # Imported here so that --help does not wait for diffusers.
    from diffusion_gym.models.loading import resolve_device

    for module in options.modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise InvalidInputError(f"cannot import {module}: {first_line(error)}") from error
    named = options.reward.lstrip().startswith("{")
    return make_reward(
        _json("--reward", options.reward) if named else options.reward,
        device=str(resolve_device(options.device)),
        options=_json("--reward-options", options.reward_options),
    )


def _json(option: str, text: str) -> Mapping[str, Any]:
    try:
        value = parse(json.loads, text)
    except ValueError as error:
        raise InvalidInputError(f"expected {option} as JSON, got: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise InvalidInputError(f"expected {option} as a JSON object, got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
