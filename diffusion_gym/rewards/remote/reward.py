"""A reward that other machines compute."""

import asyncio
import uuid
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx2
from torch import Tensor

from diffusion_gym.errors import InvalidInputError, RewardServerError, shown
from diffusion_gym.rewards.base import RewardResult
from diffusion_gym.rewards.remote.answer import joined, read_result, read_warnings
from diffusion_gym.rewards.remote.client import (
    CONNECT_SECONDS,
    AttemptFailedError,
    UnfitServerError,
    ask,
    http_client,
)
from diffusion_gym.rewards.remote.protocol import (
    DESCRIPTION_PATH,
    PROMPTS_PATH,
    PROTOCOL,
    SCORES_PATH,
    Description,
    Limits,
    reward_of,
    write_message,
)
from diffusion_gym.rewards.remote.request import Encoding, ScoreRequest, image_bytes, write_request
from diffusion_gym.rewards.remote.sharing import Patience, Server, Sharing

Result = TypeVar("Result")


class RemoteReward:
    """A reward of one or several servers, which all have the same.

    Its name and version are those of the reward that is served. A batch is cut into equal parts,
    at least one for each server, which do not depend on which servers live: each is scored by one
    server, and by another one where that fails.

    Args:
        urls: The servers' addresses, such as ``"http://10.0.0.5:8765"``.
        timeout: Seconds for one request.
        retries: How often in a row a server may fail, less one, before others take its part.
        backoff: Seconds before the first further attempt; each pause is twice the one before.
        batch_size: Most images in a request.
        encoding: How images are sent: as the float32 numbers that they are, or as PNG with 8 bits a
            colour, which is at most a third of the bytes.

    Raises:
        InvalidInputError: An address is none, or servers have different rewards.
        RewardServerError: No server answers.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        timeout: float,
        retries: int,
        backoff: float,
        batch_size: int,
        encoding: Encoding,
    ) -> None:
        self._servers = [Server(_checked(url)) for url in dict.fromkeys(urls)]
        if not self._servers:
            raise InvalidInputError("expected the url of at least one reward server, got none")
        self._timeout = timeout
        self._patience = Patience(retries, backoff)
        self._batch_size = batch_size
        self._encoding = encoding
        found = _run(self._found())
        if len({(one.name, one.version) for one in found}) > 1:
            named = ", ".join(f"{one.name} {one.version}" for one in found)
            raise InvalidInputError(f"expected servers of the same reward, got {named}")
        self.name, self.version = found[0].name, found[0].version
        self._limits = _least([one.limits for one in found])

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> RewardResult:
        """Scores images [B, 3, H, W] in [0, 1].

        Raises:
            InvalidInputError: The reward refuses a prompt; or images are larger than servers take.
            RewardServerError: No server is left that answers as it should.
        """
        size = self._part_size(images, prompts)
        pixels, texts = images.detach().float().cpu(), list(prompts)
        requests = [
            ScoreRequest(
                uuid.uuid4().hex, pixels[start : start + size], texts[start : start + size]
            )
            for start in map(int, range(0, len(images), size))
        ]
        written: dict[int, tuple[str, bytes]] = {}

        async def score(http: httpx2.AsyncClient, server: Server, job: int) -> RewardResult:
            if job not in written:
                written[job] = await asyncio.to_thread(write_request, requests[job], self._encoding)
            media_type, body = written[job]
            answer = await self._asked(http, server, SCORES_PATH, body, media_type)
            result = _read_scores(answer, requests[job], server)
            del written[job]
            return result

        return joined(_run(self._shared(len(requests), score)))

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Asks a server.

        Raises:
            InvalidInputError: The reward cannot read one of the prompts.
            RewardServerError: No server is left that answers as it should.
        """
        body = write_message({"protocol": PROTOCOL, "prompts": list(prompts)})

        async def check(http: httpx2.AsyncClient, server: Server, job: int) -> None:
            del job
            await self._asked(http, server, PROMPTS_PATH, body)

        _run(self._shared(1, check))

    def __repr__(self) -> str:
        urls = ", ".join(server.url for server in self._servers)
        return f"RemoteReward({self.name!r}, version={self.version!r}, servers={urls})"

    async def _found(self) -> list[Description]:
        """What the servers say of themselves; those that do not answer are told of."""
        async with http_client(self._timeout) as http:
            answers = await asyncio.gather(
                *(_describe(http, server, self._timeout) for server in self._servers),
                return_exceptions=True,
            )
        found, failures = [], []
        for server, answer in zip(self._servers, answers, strict=True):
            if isinstance(answer, Description):
                found.append(answer)
            elif isinstance(answer, AttemptFailedError):
                server.failing = True
                failures.append(f"{server.url}: {answer}")
            elif isinstance(answer, BaseException):
                raise answer
        if not found:
            raise RewardServerError(
                f"no reward server answers: {'; '.join(failures)}. One is started by "
                "python -m diffusion_gym.rewards.serve --reward NAME"
            )
        for failure in failures:
            warnings.warn(f"reward server does not answer: {failure}", RuntimeWarning, stacklevel=2)
        return found

    async def _shared(
        self,
        jobs: int,
        attempt: Callable[[httpx2.AsyncClient, Server, int], Awaitable[Result]],
    ) -> list[Result]:
        async with http_client(self._timeout) as http:

            async def greet(server: Server) -> None:
                answer = await _describe(http, server, min(self._timeout, CONNECT_SECONDS))
                self._check_same(answer.name, answer.version)

            return await Sharing(
                jobs, self._servers, lambda *job: attempt(http, *job), greet, self._patience
            ).run()

    async def _asked(
        self,
        http: httpx2.AsyncClient,
        server: Server,
        path: str,
        body: bytes,
        media_type: str | None = None,
    ) -> dict[str, Any]:
        """The answer to what is sent, of a server that has still the same reward."""
        named = {} if media_type is None else {"media_type": media_type}
        try:
            answer = await ask(http, server.url + path, self._timeout, body=body, **named)
        except InvalidInputError as error:
            raise InvalidInputError(f"{error} (said the reward server {server.url})") from error
        self._check_same(*_read(reward_of, answer))
        return answer

    def _check_same(self, name: str, version: str) -> None:
        if (name, version) != (self.name, self.version):
            raise UnfitServerError(
                f"expected the reward {self.name} of version {self.version}, as at the start, "
                f"got {shown(name)} of version {shown(version)}"
            )

    def _part_size(self, images: Tensor, prompts: Sequence[str]) -> int:
        """How many images a request has, at most.

        Raises:
            InvalidInputError: One image is more than servers take.
        """
        height, width = images.shape[-2:]
        longest = max(map(len, prompts), default=0)
        each = image_bytes(height, width) + 6 * longest + 1024  # 6: of a character as JSON has it
        fitting = self._limits.body_bytes // each
        if max(height, width) > self._limits.side or not fitting:
            raise InvalidInputError(
                f"expected images of at most {self._limits.side} pixels a side and "
                f"{self._limits.body_bytes} bytes, which the reward server takes, "
                f"got {height} x {width}"
            )
        share = -(-len(images) // len(self._servers))
        return max(1, min(self._batch_size, self._limits.images, fitting, share))


async def _describe(http: httpx2.AsyncClient, server: Server, timeout: float) -> Description:
    return _read(Description.read, await ask(http, server.url + DESCRIPTION_PATH, timeout))


def _read_scores(answer: dict[str, Any], request: ScoreRequest, server: Server) -> RewardResult:
    """The scores of these very images; warnings of the server are handed on."""
    if answer.get("key") != request.key:
        raise AttemptFailedError("expected the answer to what was asked, got another one")
    result = _read(lambda message: read_result(message, len(request.prompts)), answer)
    for warning in _read(read_warnings, answer):
        warnings.warn(f"reward server {server.url}: {warning}", RuntimeWarning, stacklevel=2)
    return result


def _read(read: Callable[[dict[str, Any]], Result], answer: dict[str, Any]) -> Result:
    """What an answer holds; one that cannot be read is a failed attempt."""
    try:
        return read(answer)
    except InvalidInputError as error:
        raise AttemptFailedError(str(error)) from error


def _checked(url: str) -> str:
    """An address without a slash at its end.

    Raises:
        InvalidInputError: It is none, or has a password in it, which runs would record.
    """
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise InvalidInputError(f"expected the url of a reward server, got {shown(url)}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise InvalidInputError(
            f"expected the url of a reward server, such as 'http://10.0.0.5:8765', got {shown(url)}"
        )
    if parsed.userinfo:
        raise InvalidInputError(
            "expected the url of a reward server without name and password, which runs record"
        )
    return str(parsed).rstrip("/")


def _least(limits: Sequence[Limits]) -> Limits:
    """What every server takes."""
    return Limits(**{name: min(getattr(one, name) for one in limits) for name in vars(limits[0])})


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """Waits for asynchronous work, also where an event loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
