"""Sharing jobs among servers such that each is done once, whoever fails meanwhile."""

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from diffusion_gym.errors import RewardServerError
from diffusion_gym.rewards.remote.client import AttemptFailedError, UnfitServerError

Result = TypeVar("Result")

LONGEST_PAUSE = 60.0
"""Seconds between two attempts, at most."""


@dataclass
class Server:
    """A server and how it fared.

    Attributes:
        url: Its address.
        failing: Whether it failed when it was last asked.
    """

    url: str
    failing: bool = False


@dataclass(frozen=True)
class Patience:
    """How long failing servers are borne with.

    Attributes:
        retries: How often in a row one may fail, less one, before it is left out.
        backoff: Seconds before the first further attempt; each pause is twice the one before.
    """

    retries: int
    backoff: float

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row."""
        return float(min(self.backoff * 2.0 ** min(failures - 1, 60), LONGEST_PAUSE))


class Sharing(Generic[Result]):
    """Jobs, shared among servers: each takes the next that waits when it is done with one.

    A job that fails goes back to those that wait, for whoever is free first. A server that failed
    when it was last asked gets none before it has answered a greeting, if there are others.

    Args:
        jobs: How many jobs there are.
        servers: Who does them.
        attempt: Does the job of an index on a server; raises an AttemptFailedError.
        greet: Asks a server whether it is well; raises an AttemptFailedError.
        patience: With those that fail.
    """

    def __init__(
        self,
        jobs: int,
        servers: Sequence[Server],
        attempt: Callable[[Server, int], Awaitable[Result]],
        greet: Callable[[Server], Awaitable[object]],
        patience: Patience,
    ) -> None:
        self._servers = servers
        self._attempt = attempt
        self._greet = greet
        self._patience = patience
        self._results: dict[int, Result] = {}
        self._failures = [0] * jobs
        self._waiting: asyncio.Queue[int] = asyncio.Queue()
        for job in range(jobs):
            self._waiting.put_nowait(job)
        self._done = asyncio.Event()

    async def run(self) -> list[Result]:
        """The results of all jobs, in their order.

        Raises:
            RewardServerError: A job is left, and no server that could do it.
        """
        workers = [asyncio.create_task(self._work(server)) for server in self._servers]
        everyone: asyncio.Future[list[str]] = asyncio.gather(*workers)
        done = asyncio.create_task(self._done.wait())
        try:
            await asyncio.wait((done, everyone), return_when=asyncio.FIRST_COMPLETED)
            if not self._done.is_set():
                reasons = await everyone
                raise RewardServerError(f"no reward server is left: {'; '.join(reasons)}")
        finally:
            for task in (done, *workers):
                task.cancel()
            await asyncio.gather(done, everyone, *workers, return_exceptions=True)
        return [self._results[job] for job in range(len(self._failures))]

    async def _work(self, server: Server) -> str:
        """Does jobs on a server until it is left out; says why."""
        greeting = server.failing and len(self._servers) > 1
        failures = 0
        while True:
            job = None if greeting else await self._waiting.get()
            try:
                if job is None:
                    await self._greet(server)
                    greeting = False
                else:
                    self._store(job, await self._attempt(server, job))
                    server.failing, failures = False, 0
            except AttemptFailedError as error:
                server.failing, failures = True, failures + 1
                if job is not None:
                    self._put_back(job, server, error)
                reason = f"{server.url}: {error}"
                if isinstance(error, UnfitServerError) or failures > self._patience.retries:
                    warnings.warn(
                        f"reward server left out of this batch: {reason}",
                        RuntimeWarning,
                        stacklevel=1,
                    )
                    return reason
                warnings.warn(
                    f"reward server asked once more: {reason}", RuntimeWarning, stacklevel=1
                )
                await asyncio.sleep(self._patience.pause(failures))

    def _store(self, job: int, result: Result) -> None:
        self._results[job] = result
        if len(self._results) == len(self._failures):
            self._done.set()

    def _put_back(self, job: int, server: Server, error: AttemptFailedError) -> None:
        """Lets another attempt be made, unless this job has failed as often as servers would."""
        self._failures[job] += 1
        if self._failures[job] > (self._patience.retries + 1) * len(self._servers):
            raise RewardServerError(
                f"the same images failed {self._failures[job]} times, at last on {server.url}: "
                f"{error}"
            )
        self._waiting.put_nowait(job)
