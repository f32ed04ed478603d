"""Reward servers for tests: the real one in a thread, and one in between that spoils answers."""

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import torch
import uvicorn

from diffusion_gym.rewards import RewardResult, make_reward
from diffusion_gym.rewards.remote.protocol import SCORES_PATH, Limits
from diffusion_gym.rewards.serve import listen
from diffusion_gym.rewards.server import reward_app

IMAGES = torch.linspace(0.0, 1.0, 6).view(6, 1, 1, 1).expand(6, 3, 8, 8).contiguous()
PROMPTS = ["a", "bb", "ccc", "dddd", "eeeee", "ffffff"]
OPTIONS = {"timeout": 20.0, "retries": 1, "backoff": 0.01, "batch_size": 2}


class Told:
    """A reward of which every image and every prompt has another value."""

    name = "told"

    def __init__(self, version: str = "1") -> None:
        self.version = version

    def __call__(self, images, prompts):
        mean = images.mean(dim=(1, 2, 3))
        lengths = torch.tensor([float(len(prompt)) for prompt in prompts])
        return RewardResult.from_values(mean / 3 + lengths, {"mean": mean})


EXPECTED = Told()(IMAGES, PROMPTS)


def remote(*urls: str, **options: Any):
    """A remote reward of little patience."""
    return make_reward({"remote": list(urls)}, options={**OPTIONS, **options})


@contextmanager
def served(reward: Any, limits: Limits | None = None, port: int = 0) -> Iterator[str]:
    """The real server of a reward, in a thread; yields its address."""
    config = uvicorn.Config(reward_app(reward, limits), log_level="critical")
    server = uvicorn.Server(config)
    listening = listen("127.0.0.1", port)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
        listening.close()


@contextmanager
def started(*options: str, **where: Any) -> Iterator[tuple[str, subprocess.Popen]]:
    """The command that serves a reward, as a process of its own."""
    command = [sys.executable, "-m", "diffusion_gym.rewards.serve", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **where) as process:
        try:
            url = process.stdout.readline().split()[-1].removesuffix("/v1/reward")
            yield url, process
        finally:
            process.kill()


Fault = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]
"""Answers instead of the server, whose own answer it gets."""


class Spoiler:
    """Hands requests on to a server, and spoils its answers to those for scores.

    Args:
        upstream: The server's address.
        fault: How they are spoilt.
        spoils: Which of them, by their number from 0 on.
    """

    def __init__(
        self, upstream: str, fault: Fault, spoils: Callable[[int], bool] = lambda number: True
    ) -> None:
        self.asked = 0
        self.released = threading.Event()
        """Set when a fault that waits shall end."""
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            spoiler = self

            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                there = http.client.HTTPConnection(urlsplit(upstream).netloc, timeout=10)
                kind = {"content-type": self.headers.get("content-type", "")}
                there.request(self.command, self.path, body, kind)
                answer = there.getresponse()
                data = answer.read()
                there.close()
                with lock:
                    number = outer.asked
                    outer.asked += self.path == SCORES_PATH
                if self.path == SCORES_PATH and spoils(number):
                    self.close_connection = True
                    try:
                        fault(self, json.loads(data))
                    except OSError:  # the client has gone
                        pass
                else:
                    reply(self, data, answer.status)

            def log_message(self, *arguments: Any) -> None:
                del arguments

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self) -> "Spoiler":
        return self

    def __exit__(self, *error: Any) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


def reply(
    handler: BaseHTTPRequestHandler,
    data: bytes,
    status: int = 200,
    length: int | None = None,
    **headers: str,
) -> None:
    """An answer with these bytes."""
    handler.send_response(status)
    handler.send_header("content-length", str(len(data) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)
