"""One thread at a time: two that step one environment would share its latents and step count."""

import functools
import threading
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from gymnasium.error import AlreadyPendingCallError

P = ParamSpec("P")
R = TypeVar("R")


class OneThread:
    """Lets one thread in at a time, that one as often as it likes; a copy lets another in."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[type["OneThread"], tuple[()]]:
        """A lock can be neither pickled nor copied; the copy of an environment gets a new one."""
        return OneThread, ()

    def enter(self) -> bool:
        """Whether this thread may go in, which it must `leave` then."""
        return self._lock.acquire(blocking=False)

    def leave(self) -> None:
        """Lets the next one in."""
        self._lock.release()


def one_thread(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Makes a method refuse a thread while another is in it, or in another such method.

    It costs well below a microsecond. The object has a `OneThread` as its ``_one_thread``.

    Raises:
        AlreadyPendingCallError: Another thread is inside.
    """

    @functools.wraps(method)
    def guarded(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        guard: OneThread = self._one_thread
        if not guard.enter():
            name = method.__name__
            raise AlreadyPendingCallError(
                f"expected one thread at a time in an environment, got {name}() while another "
                "thread's call is running; give every thread an environment of its own",
                name,
            )
        try:
            return method(self, *args, **kwargs)
        finally:
            guard.leave()

    return guarded
