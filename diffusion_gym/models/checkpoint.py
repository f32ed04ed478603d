"""A checkpoint on disk: which parts it has, and how each of them is loaded."""

import abc
import hashlib
import json
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

from diffusion_gym.errors import ModelLoadError
from diffusion_gym.models.architectures import ARCHITECTURES, Architecture
from diffusion_gym.models.quiet import quiet_libraries


class Checkpoint(abc.ABC):
    """The parts of a text-to-image model, loaded one by one.

    Attributes:
        folder: Where ``model_index.json``, configurations and tokenizers are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    @abc.abstractmethod
    def key(self) -> Hashable:
        """The same for checkpoints whose networks are the same."""

    @property
    @abc.abstractmethod
    def place(self) -> str:
        """What messages call it."""

    @abc.abstractmethod
    def _network(self, part: str, part_class: Any, dtype: torch.dtype) -> nn.Module:
        """Loads a network; any exception means that it cannot be loaded."""

    @abc.abstractmethod
    def weights_hash(self, parts: Sequence[str]) -> str:
        """SHA-256, in hex, of the weights of the given networks."""

    @cached_property
    def index(self) -> dict[str, Any]:
        """The content of ``model_index.json``.

        Raises:
            ModelLoadError: It is missing or damaged.
        """
        file = self.folder / "model_index.json"
        try:
            index: dict[str, Any] = json.loads(file.read_text())
            _ = index["_class_name"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelLoadError(
                f"{self.folder} is no diffusers folder of a text-to-image model: expected "
                f"{file.name} naming a pipeline as its _class_name, got "
                f"{type(error).__name__}: {error}"
            ) from error
        return index

    @property
    def architecture(self) -> Architecture:
        """The kind of model.

        Raises:
            ModelLoadError: It is not supported.
        """
        name = self.index["_class_name"]
        if not isinstance(name, str) or name not in ARCHITECTURES:
            raise ModelLoadError(
                f"the model in {self.place} is a {name}; supported: {', '.join(ARCHITECTURES)}"
            )
        return ARCHITECTURES[name]

    def has(self, part: str) -> bool:
        """Is a part there? Only parts that are optional may be missing."""
        missing = self.index.get(part, [None, None])[1] is None
        return not (missing and part in self.architecture.optional_parts)

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of the denoiser or the autoencoder.

        Raises:
            ModelLoadError: It is missing, damaged, or of an unsupported class.
        """
        part_class, folder = self._part(part)
        with self._loading(part, part_class):
            return dict(part_class.load_config(folder))

    def small_part(self, part: str) -> Any:
        """Loads a tokenizer or the scheduler.

        Raises:
            ModelLoadError: It is missing, damaged, or of an unsupported class.
        """
        part_class, folder = self._part(part)
        with self._loading(part, part_class):
            return part_class.from_pretrained(folder)

    def network(self, part: str, dtype: torch.dtype) -> nn.Module:
        """Loads a network.

        Raises:
            ModelLoadError: It is missing, damaged, or of an unsupported class.
        """
        part_class, _ = self._part(part)
        with self._loading(part, part_class):
            return self._network(part, part_class, dtype)

    def _part(self, part: str) -> tuple[Any, Path]:
        """Class and folder of a part."""
        entry = self.index.get(part)
        if not isinstance(entry, Sequence) or len(entry) != 2 or isinstance(entry, str):
            raise ModelLoadError(
                f"{self.folder} is no diffusers folder of a text-to-image model: expected "
                f"model_index.json naming library and class of a {part}, got {entry!r}"
            )
        name = entry[1]
        supported = self.architecture.parts[part]
        if name not in supported:
            raise ModelLoadError(
                f"the {part} of the model in {self.place} is a {name}; "
                f"supported: {', '.join(supported)}"
            )
        folder = self.folder / part
        if not folder.is_dir():  # the libraries would take its name for a hub id
            raise ModelLoadError(
                f"expected the {part} of the model in {folder}, found no such folder"
            )
        library = transformers if part.startswith(("text_encoder", "tokenizer")) else diffusers
        return getattr(library, name), folder

    @contextmanager
    def _loading(self, part: str, part_class: Any) -> Iterator[None]:
        """Keeps the libraries quiet, and turns what they raise into one kind of error."""
        try:
            with quiet_libraries():
                yield
        except ModelLoadError:
            raise
        except Exception as error:  # the libraries raise every kind of exception for a bad file
            raise ModelLoadError(
                f"cannot load the {part} of the model in {self.place}: expected a complete "
                f"{part_class.__name__}, got {type(error).__name__}: {error}"
            ) from error


class FolderCheckpoint(Checkpoint):
    """A folder in diffusers' format.

    Args:
        folder: The folder.
        variant: As in ``diffusion_pytorch_model.fp16.safetensors``: "fp16".

    Raises:
        ModelLoadError: No part has weights of the variant.
    """

    def __init__(self, folder: Path, variant: str | None = None) -> None:
        super().__init__(folder)
        self.variant = variant
        found = weight_variants(folder.glob("*/*.safetensors"))
        if variant is not None and variant not in found:
            raise ModelLoadError(
                f"expected weights of variant {variant!r} in {folder}, found: "
                f"{', '.join(sorted(found - {''})) or 'no variants'}"
            )

    @property
    def key(self) -> Hashable:
        """The folder and the variant."""
        return self.folder.resolve(), self.variant

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.folder)

    def _network(self, part: str, part_class: Any, dtype: torch.dtype) -> nn.Module:
        folder = self.folder / part
        network, loading = part_class.from_pretrained(
            folder,
            output_loading_info=True,
            use_safetensors=True,  # a pickled checkpoint could run code, and has no hash
            variant=self._variant_of(part),
            **_options(part_class, dtype),
        )
        missing = sorted(loading["missing_keys"])
        misshapen = [
            f"{key} (expected {list(expected)}, got {list(got)})"
            for key, got, expected in sorted(loading["mismatched_keys"])
        ]
        check_complete(network, str(folder), missing, misshapen)
        return network  # type: ignore[no-any-return]

    def _variant_of(self, part: str) -> str | None:
        """The variant if the part has it; else its only weights, if they are plain.

        Raises:
            ModelLoadError: The part has only variants, and none was asked for.
        """
        found = weight_variants((self.folder / part).glob("*.safetensors"))
        if self.variant is not None and self.variant in found:
            return self.variant
        if found and "" not in found:
            raise ModelLoadError(
                f"{self.folder / part} holds only weights of variants: expected variant to be one "
                f"of {', '.join(sorted(found))}, got {self.variant!r}"
            )
        return None

    def weights_hash(self, parts: Sequence[str]) -> str:
        """SHA-256 over the weight files that are loaded, in the order of their paths.

        Others, such as a safety checker or another variant, are left out: whether a copy of the
        checkpoint has them depends on how it was downloaded.
        """
        digest = hashlib.sha256()
        files = [file for part in parts for file in self._weight_files(part)]
        for file in sorted(files):
            digest.update(file.relative_to(self.folder).as_posix().encode())
            digest.update(file_digest(file))
        return digest.hexdigest()

    def _weight_files(self, part: str) -> list[Path]:
        variant = self._variant_of(part) or ""
        files = (self.folder / part).glob("*.safetensors")
        return [file for file in files if weight_variant(file) == variant]


def weight_variant(file: Path) -> str:
    """The variant in a weight file's name, "" where there is none.

    ``model.fp16.safetensors`` and, in several files, ``model.fp16-00001-of-00002.safetensors``.
    """
    _, _, variant = file.stem.partition(".")
    return variant.partition("-")[0]


def weight_variants(files: Iterable[Path]) -> set[str]:
    """All variants among weight files."""
    return {weight_variant(file) for file in files}


def file_digest(file: Path) -> bytes:
    """SHA-256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def check_complete(
    network: Any, place: str, missing: Sequence[str], misshapen: Sequence[str] = ()
) -> None:
    """Refuses a network with missing weights: the libraries fill those with random numbers.

    Raises:
        ModelLoadError: If there are any.
    """
    if missing or misshapen:
        raise ModelLoadError(
            f"the weights in {place} do not fit {type(network).__name__}: expected all of its "
            f"weights, got {len(missing)} missing and {len(misshapen)} of another shape, such as "
            f"{[*missing, *misshapen][0]}"
        )


def _options(part_class: Any, dtype: torch.dtype) -> dict[str, Any]:
    """What the two libraries call by different names.

    Of weights of a wrong shape diffusers' exception names the first; transformers only logs them,
    unless told to go on, and then lists them.
    """
    if issubclass(part_class, transformers.PreTrainedModel):
        return {"dtype": dtype, "ignore_mismatched_sizes": True}
    return {"torch_dtype": dtype}
