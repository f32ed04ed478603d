"""Asking one server over HTTP, within a time, and telling apart what may go wrong."""

import asyncio
import functools
import ssl
from typing import Any

import httpx2

from diffusion_gym.errors import InvalidInputError, first_line, one_line, shown
from diffusion_gym.rewards.remote.protocol import JSON, REFUSED, read_message

CONNECT_SECONDS = 5.0
"""The longest wait for a connection."""

MOST_ANSWER_BYTES = 16 * 2**20
"""The longest answer that is read: 1024 images with a thousand numbers each."""

PASSING = frozenset({408, 425, 429, *range(500, 600)})
"""Statuses after which the same request may succeed: too busy, broken, or about to start."""


class AttemptFailedError(Exception):
    """A server did not answer as it should; it, or another, may be asked once more."""


class UnfitServerError(AttemptFailedError):
    """A server that would not answer any better the next time."""


@functools.cache
def _tls() -> ssl.SSLContext:
    """What https needs, made once: reading the certificates takes a while."""
    return httpx2.create_ssl_context()


def http_client(timeout: float) -> httpx2.AsyncClient:
    """A client for the requests of one batch.

    Args:
        timeout: Seconds for each single operation.
    """
    return httpx2.AsyncClient(
        verify=_tls(),
        timeout=httpx2.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
        headers={"Accept": JSON, "Accept-Encoding": "identity"},
    )


async def ask(
    http: httpx2.AsyncClient,
    url: str,
    timeout: float,
    *,
    body: bytes | None = None,
    media_type: str = JSON,
) -> dict[str, Any]:
    """Gets a message, or sends one and gets the answer.

    Args:
        http: The client.
        url: Server and path.
        timeout: Seconds for the whole of it.
        body: What to send; None gets only.
        media_type: What that is.

    Raises:
        AttemptFailedError: There is no answer, or something else than one.
        InvalidInputError: The reward refuses what was sent.
    """
    try:
        async with (
            asyncio.timeout(timeout),
            http.stream(
                "GET" if body is None else "POST",
                url,
                content=body,
                headers=None if body is None else {"Content-Type": media_type},
            ) as response,
        ):
            data = await _read(response)
    except (TimeoutError, httpx2.TimeoutException) as error:
        raise AttemptFailedError(f"no answer within {timeout:g} s") from error
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise AttemptFailedError(f"{type(error).__name__}: {first_line(error)}") from error
    if response.status_code == httpx2.codes.OK:
        return _understood(data)
    raise _failure(response, data)


async def _read(response: httpx2.Response) -> bytes:
    """An answer's bytes as they come: nothing is unpacked."""
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise UnfitServerError(f"expected an answer that is not compressed, got {shown(encoding)}")
    data = bytearray()
    async for part in response.aiter_raw():
        data += part
        if len(data) > MOST_ANSWER_BYTES:
            raise AttemptFailedError(f"expected an answer of at most {MOST_ANSWER_BYTES} bytes")
    return bytes(data)


def _understood(data: bytes) -> dict[str, Any]:
    try:
        return read_message(data)
    except InvalidInputError as error:
        raise AttemptFailedError(str(error)) from error


def _failure(response: httpx2.Response, data: bytes) -> Exception:
    """What an answer of another status than 200 means."""
    status = response.status_code
    reason = f"{status} {response.reason_phrase}".strip()
    try:
        said = read_message(data).get("error")
    except InvalidInputError:
        said = None
    if isinstance(said, str):
        if status == REFUSED:
            return InvalidInputError(one_line(said, 1000))
        reason = f"{reason}: {one_line(said)}"
    if response.is_redirect:
        reason = f"{reason}, to {shown(response.headers.get('location'))}; name that server itself"
    kind = AttemptFailedError if status in PASSING else UnfitServerError
    return kind(f"expected status 200, got {reason}")
