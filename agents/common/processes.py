"""The processes that train one policy together, and what each learns from the others.

Of every batch each of the N processes has one part, in the order of their ranks, so that all of
them together have what one process alone would have. They draw the same random numbers and keep
their own rows of them; what compares images is gathered; gradients are added up.

One process alone is the usual case. All of this then gives back what it is given, and no process
group is made.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from diffusion_gym.errors import DiffusionGymError, InvalidInputError, first_line, shown

T = TypeVar("T")

BUCKET = 2**25
"""Entries of gradients that are sent at once, 128 MiB: few messages, and no copy of them all."""

NOT_SUPPORTED: Mapping[str, str] = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}
"""Environment variables by which accelerate splits one model among processes."""

SAID_ELSEWHERE: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "ACCELERATE_MIXED_PRECISION": ("--autocast and --dtype", ("no",)),
    "ACCELERATE_DYNAMO_BACKEND": ("--compile", ("no",)),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("--batch-size", ("1",)),
}
"""Those that mean what an option of ours says, the option, and the values that ask for nothing."""


_PLACE = re.compile(r"^\[[^]]*\] ")


class ProcessLostError(DiffusionGymError, RuntimeError):
    """Another process has ended, or cannot be reached."""


class ElsewhereError(DiffusionGymError):
    """An error of another process, which reports it."""


@dataclass(frozen=True)
class Processes:
    """N processes, seen from one of them.

    Every method but `rows` and `part` is called by all of them at the same point, or they wait for
    each other for ever.

    Attributes:
        count: N.
        rank: Which of them this is, 0 … N − 1. The first one logs and writes.
    """

    count: int = 1
    rank: int = 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.count == 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one that logs and writes."""
        return self.rank == 0

    # ------------------------------------------------------------------ this one's part

    def part(self, size: int) -> slice:
        """This one's rows of a batch of all, of which each process has so many."""
        return slice(self.rank * size, (self.rank + 1) * size)

    def rows(self, size: int) -> "Rows":
        """The rows of a round, whose batches have so many rows in each process."""
        return Rows(self, size)

    def noise(
        self, shape: Sequence[int], generator: torch.Generator, *, uneven: bool = False
    ) -> Tensor:
        """Standard normal noise for this one's rows of what is drawn for the rows of all.

        The generator is in the same state everywhere, before and after.

        Args:
            shape: Of this one's rows, ``[B, …]``.
            generator: Source, and the device.
            uneven: The processes may have different numbers of rows.
        """
        before, total = 0, shape[0] * self.count
        if not self.alone:
            before = shape[0] * self.rank
            if uneven:
                counts = self.gathered(shape[0])
                before, total = sum(counts[: self.rank]), sum(counts)
        drawn = torch.randn((total, *shape[1:]), generator=generator, device=generator.device)
        return drawn if self.alone else drawn[before : before + shape[0]]

    # ------------------------------------------------------------------ what all have

    def any(self, flag: bool) -> bool:
        """Whether it is true of one of them at least."""
        return flag if self.alone else any(self.gathered(flag))

    def total(self, number: int) -> int:
        """The sum of all."""
        return number if self.alone else sum(self.gathered(number))

    def gathered(self, value: T) -> list[T]:
        """The values of all, by rank: whatever can be pickled, tensors on the host."""
        return self.joined([value])

    def joined(self, values: list[T]) -> list[T]:
        """The lists of all as one, by rank."""
        if self.alone:
            return values
        from accelerate.utils import gather_object

        with _reaching():
            joined: list[T] = gather_object(values)
        return joined

    def gathered_rows(self, rows: Tensor) -> Tensor:
        """The rows ``[B, …]`` of all, by rank, ``[N · B, …]``."""
        if self.alone:
            return rows
        from accelerate import PartialState
        from accelerate.utils import gather

        with _reaching():
            gathered: Tensor = gather(rows.to(PartialState().device)).to(rows.device)
        return gathered

    @torch.no_grad()
    def add_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Makes the gradients of all the sum of what each one has; of those that one has at all."""
        if self.alone:
            return
        from accelerate.utils import reduce

        parameters = list(parameters)
        have = [parameter.grad is not None for parameter in parameters]
        somewhere = [any(flags) for flags in zip(*self.gathered(have), strict=True)]
        used = [p for p, one in zip(parameters, somewhere, strict=True) if one]
        for bucket in _buckets(used):
            flat = torch.cat(
                [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in bucket]
            )
            with _reaching():
                flat = reduce(flat, "sum")
            sums = flat.split([p.numel() for p in bucket])
            for parameter, values in zip(bucket, sums, strict=True):
                if parameter.grad is None:
                    parameter.grad = torch.empty_like(parameter)
                parameter.grad.copy_(values.view_as(parameter))

    # ------------------------------------------------------------------ all or none

    def from_main(self, function: Callable[[], T]) -> T:
        """What a function gives in the first process, which alone calls it.

        Raises:
            ElsewhereError: It failed there; the first process raises the error itself.
        """
        if self.alone:
            return function()
        from accelerate.utils import broadcast_object_list

        outcome: list[Any] = [None, None]
        raised: BaseException | None = None
        if self.is_main:
            try:
                outcome = [function(), None]
            except (Exception, SystemExit) as error:
                raised = error
                outcome = [None, error.code if isinstance(error, SystemExit) else _words(error)]
        with _reaching():
            value, failure = broadcast_object_list(outcome)
        if raised is not None:
            raise raised
        if isinstance(failure, str):
            raise ElsewhereError(failure)
        if failure is not None:
            raise SystemExit(failure)
        result: T = value
        return result

    @contextmanager
    def together(self) -> Iterator[None]:
        """A ``with`` block that all get through, or none does; nothing is exchanged inside.

        Raises:
            ElsewhereError: It failed in another process, which raises the error itself.
        """
        if self.alone:
            yield
            return
        raised: Exception | None = None
        try:
            yield
        except Exception as error:
            raised = error
        failures = self.gathered(None if raised is None else _words(raised))
        for rank, failure in enumerate(failures):
            if failure is None:
                continue
            if raised is not None and rank == self.rank:
                raise raised
            raise ElsewhereError(f"process {rank}: {failure}")


ALONE = Processes()
"""One process, as usual."""


@dataclass(frozen=True)
class Rows:
    """The rows of a round of whole batches, in which each process has one part of every batch.

    Attributes:
        processes: The processes.
        size: Rows of a batch in each of them, n.
    """

    processes: Processes
    size: int

    def everyone(self, own: Tensor) -> Tensor:
        """The rows of all, ``[K · N · n, …]`` as one process has them, of own ``[K · n, …]``."""
        if self.processes.alone:
            return own
        # From [N, K, n] to [K, N, n]: batch by batch, in each rank by rank.
        gathered = self.processes.gathered_rows(own)
        by_rank = gathered.view(self.processes.count, -1, self.size, *own.shape[1:])
        return by_rank.transpose(0, 1).reshape(gathered.shape)

    def own(self, everyone: Tensor) -> Tensor:
        """This process's rows ``[K · n, …]`` of those of all; `everyone` turned round."""
        if self.processes.alone:
            return everyone
        batches = everyone.view(-1, self.processes.count, self.size, *everyone.shape[1:])
        return batches[:, self.processes.rank].flatten(0, 1)

    def own_pairs(self, pairs: Tensor, per_row: int) -> tuple[Tensor | slice, Tensor]:
        """Those pairs that are of this process's rows.

        Args:
            pairs: Pair ``p`` is of row ``p // per_row`` of those of all, ``[M]``.
            per_row: Pairs that a row can have.

        Returns:
            Where they are among ``pairs``, and the same pairs of own rows.
        """
        if self.processes.alone:
            return slice(None), pairs
        rows, which = pairs // per_row, pairs % per_row
        batch, place = rows // (self.processes.count * self.size), rows // self.size
        where = (place % self.processes.count == self.processes.rank).nonzero()[:, 0]
        own = batch * self.size + rows % self.size
        return where, (own * per_row + which)[where]


# ------------------------------------------------------------------ joining and leaving


def join(device: str = "auto") -> Processes:
    """Joins the processes that torchrun or ``accelerate launch`` has started, if they have.

    Gradients go through nccl between GPUs, each process on the one of its local rank, and through
    gloo between CPUs.

    Args:
        device: "auto", "cuda" or "cpu": where the processes compute.

    Raises:
        InvalidInputError: accelerate is told to do what cannot be done here; or one device is named
            for all of them.
    """
    _check_launch()
    if "LOCAL_RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return current()
    if ":" in device:
        raise InvalidInputError(
            "every process computes on a device of its own, the one of its local rank: expected "
            f"device 'auto', 'cuda' or 'cpu', got {shown(device)}"
        )
    from accelerate import PartialState

    PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
    return current()


def current() -> Processes:
    """The processes of the process group that there is; this one alone where there is none."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return Processes()
    from accelerate import PartialState

    PartialState(cpu=distributed.get_backend() == "gloo")  # the one that there is already, or new
    return Processes(distributed.get_world_size(), distributed.get_rank())


def leave() -> None:
    """Ends the process group, if there is one."""
    if not current().alone:
        from accelerate import PartialState

        PartialState().destroy_process_group()


def _check_launch() -> None:
    """Refuses what accelerate's configuration asks for and nobody here would do."""
    for variable, what in NOT_SUPPORTED.items():
        if os.environ.get(variable, "false").lower() in ("true", "1"):
            raise InvalidInputError(
                "every process trains a whole copy of the model, and nothing here splits it: "
                f"expected data parallel processes (MULTI_GPU, or torchrun), got {what}"
            )
    for variable, (option, nothing) in SAID_ELSEWHERE.items():
        value = os.environ.get(variable, nothing[0])
        if value.lower() not in nothing:
            raise InvalidInputError(
                f"{variable}, from accelerate's configuration, has no effect here: expected "
                f"{nothing[0]!r}, got {shown(value)}; say it with {option}"
            )


@contextmanager
def _reaching() -> Iterator[None]:
    """Turns what a process group raises when one is missing into words."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        # gloo: "[a file of its source] what happened. What is usual then …"
        reason = _PLACE.sub("", first_line(error)).partition(". ")[0]
        raise ProcessLostError(
            "another process of this run has ended or cannot be reached, and without it this one "
            f"cannot go on ({reason})"
        ) from error


def _buckets(parameters: Iterable[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    """The parameters in runs of one dtype and at most `BUCKET` entries, or one that has more."""
    bucket: list[torch.nn.Parameter] = []
    for parameter in parameters:
        entries = sum(p.numel() for p in bucket) + parameter.numel()
        if bucket and (entries > BUCKET or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


def _words(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
