"""The web application that scores images for others with a reward."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from diffusion_gym.errors import InvalidInputError, first_line
from diffusion_gym.rewards.base import RewardFunction
from diffusion_gym.rewards.isolation import score_and_tell
from diffusion_gym.rewards.remote.answer import result_message
from diffusion_gym.rewards.remote.protocol import (
    DESCRIPTION_PATH,
    JSON,
    PROMPTS_PATH,
    PROTOCOL,
    REFUSED,
    SAFETENSORS,
    SCORES_PATH,
    Description,
    Limits,
    about,
    read_message,
    write_message,
)
from diffusion_gym.rewards.remote.request import (
    RequestTooLargeError,
    read_request,
    texts_of,
)

UPLOAD_SECONDS = 300.0
"""The longest that a request may take to arrive: of a client that has vanished, the rest never."""

Result = TypeVar("Result")
logger = logging.getLogger("uvicorn.error")


def reward_app(reward: RewardFunction, limits: Limits | None = None) -> Starlette:
    """The application of a reward, for any server of the ASGI standard, in one process.

    Requests are scored one after the other, all in one thread, as the reward would be asked in a
    training; an image that cannot be scored spoils no other.

    Args:
        reward: The reward.
        limits: The most that is taken; None: the defaults.
    """
    return _Service(reward, limits or Limits()).app


class _Refusal(Exception):
    """A request that is answered by an error.

    Args:
        status: HTTP's.
        reason: In words.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Service:
    def __init__(self, reward: RewardFunction, limits: Limits) -> None:
        self._reward = reward
        self._limits = limits
        self._about = about(reward.name, reward.version)
        self._description = Description(reward.name, reward.version, limits).message()
        self._requests = 0
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "reward")
        self.app = Starlette(
            routes=[
                Route(DESCRIPTION_PATH, self._answering(self._describe)),
                Route(PROMPTS_PATH, self._answering(self._check), methods=["POST"]),
                Route(SCORES_PATH, self._answering(self._score), methods=["POST"]),
            ],
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        del app
        yield
        self._thread.shutdown()

    def _answering(
        self, answer: Callable[[Request], Awaitable[dict[str, Any]]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint: what it returns or raises, as an answer of the protocol."""

        async def endpoint(request: Request) -> Response:
            status = 200
            try:
                message = await answer(request)
            except _Refusal as refusal:
                status, message = refusal.status, {"protocol": PROTOCOL, "error": str(refusal)}
            except ClientDisconnect:
                status, message = 400, {"protocol": PROTOCOL, "error": "the client has gone"}
            except Exception as error:
                logger.exception("a request could not be answered")
                reason = f"{type(error).__name__}: {first_line(error)}"
                status, message = 500, {"protocol": PROTOCOL, "error": reason}
            return Response(write_message(message), status, media_type=JSON)

        return endpoint

    async def _describe(self, request: Request) -> dict[str, Any]:
        del request
        return self._description

    async def _check(self, request: Request) -> dict[str, Any]:
        async with self._counted():
            body = await self._body(request, JSON)
            prompts = _understood(lambda: texts_of(read_message(body)))
            await self._in_turn(request, lambda: _checked(self._reward, prompts))
            return self._about

    async def _score(self, request: Request) -> dict[str, Any]:
        async with self._counted():
            body = await self._body(request, JSON, SAFETENSORS)
            media_type = _media_type(request)
            scoring = await asyncio.to_thread(
                _understood, lambda: read_request(media_type, body, self._limits)
            )
            images, prompts = scoring.images, scoring.prompts
            result, failures = await self._in_turn(
                request, lambda: score_and_tell(self._reward, images, prompts)
            )
            for failure in failures:
                logger.warning(failure)
            return {**self._about, "key": scoring.key, **result_message(result, failures)}

    @contextlib.asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        """Turns away what would come to more requests at once than are kept in memory."""
        if self._requests >= self._limits.requests:
            raise _Refusal(503, f"{self._requests} requests are waiting; try again later")
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    async def _body(self, request: Request, *media_types: str) -> bytes:
        if _media_type(request) not in media_types or "content-encoding" in request.headers:
            raise _Refusal(415, f"expected {' or '.join(media_types)}, not compressed")
        most = self._limits.body_bytes
        too_large = _Refusal(413, f"expected at most {most} bytes")
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > most:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                async for part in request.stream():
                    body += part
                    if len(body) > most:
                        raise too_large
        except TimeoutError as error:
            raise _Refusal(408, f"expected the request within {UPLOAD_SECONDS:g} s") from error
        return bytes(body)

    async def _in_turn(self, request: Request, work: Callable[[], Result]) -> Result:
        """Asks the reward, unless nobody waits for the answer any more."""
        async with self._turn:
            if await request.is_disconnected():
                raise ClientDisconnect
            loop = asyncio.get_running_loop()
            try:
                return await loop.run_in_executor(self._thread, work)
            except InvalidInputError as error:
                raise _Refusal(REFUSED, str(error)) from error


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _understood(read: Callable[[], Result]) -> Result:
    """What a request holds.

    Raises:
        _Refusal: It is not of the protocol, or too large.
    """
    try:
        return read()
    except RequestTooLargeError as error:
        raise _Refusal(413, str(error)) from error
    except InvalidInputError as error:
        raise _Refusal(400, str(error)) from error


def _checked(reward: object, prompts: list[str]) -> None:
    """Lets the reward refuse prompts, where it can."""
    check = getattr(reward, "check_prompts", None)
    if check is not None:
        check(prompts)
