"""Keeping diffusers and transformers quiet while they load."""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import CRITICAL

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silences both libraries' logs and progress bars, and restores their settings.

    What they log about a checkpoint that does not fit is said by the error that follows; what
    they log about one that does (such as weights of Stable Diffusion 1.5 that nothing uses) is of
    no concern to anybody.
    """
    levels = {library: library.get_verbosity() for library in _LOGS}
    with_bars = [library for library in _LOGS if library.is_progress_bar_enabled()]
    for library in _LOGS:
        library.set_verbosity(CRITICAL)
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in with_bars:
            library.enable_progress_bar()
        for library, level in levels.items():
            library.set_verbosity(level)


_LOGS = (diffusers_logging, transformers_logging)
