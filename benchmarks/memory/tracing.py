"""How much memory a piece of torch code needs, counted tensor by tensor."""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive at once, while it is entered.

    It works on real tensors and, since only sizes matter, on fake ones
    (``torch._subclasses.FakeTensorMode``): no memory and no device is needed then. What kernels
    take for themselves (cuDNN's workspaces, say) is not seen.

    Args:
        known: Tensors that were there before, and are not to be counted.

    Attributes:
        live: Bytes alive now.
        peak: The most there ever were.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.live = 0
        self.peak = 0
        self._seen = WeakIdKeyDictionary()
        for tensor in known:
            self._seen[tensor.untyped_storage()] = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs an operation and counts what is new in its results."""
        del types
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, Tensor):
                self._count(result.untyped_storage())
        return results

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:  # a view, or a result written in place
            return
        size = storage.nbytes()
        self._seen[storage] = True
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size


class SavedTensors:
    """Counts the bytes that autograd keeps for the backward pass, each storage once."""

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        self._known = list(known)  # kept alive, so that no address is used twice
        self._storages = {storage_key(tensor): 0 for tensor in self._known}

    @property
    def total(self) -> int:
        """The bytes so far."""
        return sum(self._storages.values())

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts within a ``with`` block."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield

    def _pack(self, tensor: Tensor) -> Tensor:
        self._known.append(tensor)
        self._storages.setdefault(storage_key(tensor), tensor.untyped_storage().nbytes())
        return tensor


def storage_key(tensor: Tensor) -> int:
    """The same number for all views of one memory."""
    address: int = tensor.untyped_storage()._cdata
    return address


def parameter_bytes(module: nn.Module, *, trained: bool | None = None) -> int:
    """Bytes of a module's parameters: all of them, or those that train, or those that do not."""
    return sum(
        parameter.numel() * parameter.element_size()
        for parameter in module.parameters()
        if trained is None or parameter.requires_grad == trained
    )


def cast_norms_as_cuda_does(module: nn.Module) -> list[RemovableHandle]:
    """Makes the normalisations of a module compute in float32.

    CUDA's autocast does so, the CPU's does not; their float32 results are what is kept for the
    backward pass, so a count on the CPU would be too low.

    Returns:
        Handles whose ``remove`` ends it.
    """
    return [
        layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(), *inputs[1:]))
        for layer in module.modules()
        if isinstance(layer, nn.GroupNorm | nn.LayerNorm)
    ]
