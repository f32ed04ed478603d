"""A checkpoint on disk: which parts it has, and how each of them is loaded."""

import abc
import hashlib
import inspect
import json
import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors import safe_open
from torch import nn

from diffusion_gym.errors import ModelLoadError, first_line, one_line, shown
from diffusion_gym.models.architectures import ARCHITECTURES, Architecture
from diffusion_gym.models.quiet import quiet_libraries
from diffusion_gym.parsing import parse


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
            index: dict[str, Any] = parse(json.loads, file.read_text(encoding="utf-8"))
            _ = index["_class_name"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelLoadError(
                f"{self.folder} is no diffusers folder of a text-to-image model: expected "
                f"{file.name} naming a pipeline as its _class_name, got "
                f"{type(error).__name__}: {first_line(error)}"
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
        entry = self.index.get(part)
        missing = entry is None or entry == [None, None]
        return not (missing and part in self.architecture.optional_parts)

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of the denoiser or the autoencoder.

        Raises:
            ModelLoadError: It is missing, damaged, or of an unsupported class.
        """
        part_class, folder = self._part(part)
        with self._loading(part, part_class):
            config = dict(part_class.load_config(folder))
        check_types(part_class, config, folder)
        return config

    def small_part(self, part: str) -> Any:
        """Loads a tokenizer or the scheduler.

        Raises:
            ModelLoadError: It is missing, damaged, or of an unsupported class.
        """
        part_class, folder = self._part(part)
        with self._loading(part, part_class):
            if issubclass(part_class, transformers.PreTrainedTokenizerBase):
                return part_class.from_pretrained(folder, trust_remote_code=False)
            check_types(part_class, part_class.load_config(folder), folder)
            return part_class.from_pretrained(folder)

    def network(self, part: str, dtype: torch.dtype) -> nn.Module:
        """Loads a network.

        Raises:
            ModelLoadError: It is missing, damaged, or of an unsupported class.
        """
        part_class, folder = self._part(part)
        with self._loading(part, part_class):
            if not issubclass(part_class, transformers.PreTrainedModel):
                check_types(part_class, part_class.load_config(folder), folder)
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
                f"{part_class.__name__}, got {type(error).__name__}: {one_line(str(error))}"
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
                f"expected weights of variant {shown(variant)} in {folder}, found: "
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
        return load_folder(self.folder / part, part_class, dtype, self.variant)

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
        return weight_files(self.folder / part, self.variant)


def load_folder(
    folder: Path, part_class: Any, dtype: torch.dtype, variant: str | None = None
) -> nn.Module:
    """Loads a network from its own folder in diffusers' format.

    Args:
        folder: Where its configuration and its weights are.
        part_class: Its class, of diffusers or transformers.
        dtype: Its precision.
        variant: As in ``diffusion_pytorch_model.fp16.safetensors``, where the folder has it.

    Raises:
        ModelLoadError: Weights are missing, pickled, or of another kind or shape; the libraries
            raise other errors for other faults.
    """
    check_not_pickled(folder)
    for file in weight_files(folder, variant):
        check_floating(file)
    network, loading = part_class.from_pretrained(
        folder,
        output_loading_info=True,
        use_safetensors=True,  # a pickled checkpoint could run code, and has no hash
        variant=present_variant(folder, variant),
        **_options(part_class, dtype),
    )
    missing = sorted(loading["missing_keys"])
    misshapen = [
        f"{key} (expected {list(expected)}, got {list(got)})"
        for key, got, expected in sorted(loading["mismatched_keys"])
    ]
    check_complete(network, str(folder), missing, misshapen)
    return network  # type: ignore[no-any-return]


def present_variant(folder: Path, wanted: str | None) -> str | None:
    """The variant if a network's folder has it; else its only weights, if they are plain.

    Raises:
        ModelLoadError: It has only variants, and none of them was asked for.
    """
    found = weight_variants(folder.glob("*.safetensors"))
    if wanted is not None and wanted in found:
        return wanted
    if found and "" not in found:
        raise ModelLoadError(
            f"{folder} holds only weights of variants: expected variant to be one "
            f"of {', '.join(sorted(found))}, got {wanted!r}"
        )
    return None


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The files of a network's folder that are loaded.

    Raises:
        ModelLoadError: It has only other variants.
    """
    present = present_variant(folder, variant) or ""
    return [file for file in folder.glob("*.safetensors") if weight_variant(file) == present]


def check_types(part_class: Any, config: Mapping[str, Any], folder: Path) -> None:
    """Refuses entries of a configuration that are of another kind than the class's defaults.

    diffusers takes anything, and trips over it later, or never.

    Args:
        part_class: Network or scheduler of diffusers.
        config: Its configuration, as in the file.
        folder: Where the file is, for the message.

    Raises:
        ModelLoadError: For such an entry.
    """
    for name, parameter in inspect.signature(part_class.__init__).parameters.items():
        default = parameter.default
        value = config.get(name, default)
        if not isinstance(default, bool | int | float | str):
            continue
        if value is None and (isinstance(default, bool) or "None" in str(parameter.annotation)):
            continue
        # One for each of the network's levels is written in a list.
        several = isinstance(value, list | tuple) and value and isinstance(default, int)
        if not all(_is_like(part, default) for part in (value if several else [value])):
            raise ModelLoadError(
                f"expected {name} in the configuration in {folder} to be of the kind of its "
                f"default, {default!r}, got {value!r}"
            )


def _is_like(value: object, default: bool | int | float | str) -> bool:
    """Is a value of a default's type, and finite and not negative where the default is so?"""
    if isinstance(default, bool | str) or isinstance(value, bool):
        return type(value) is type(default)
    if not isinstance(value, int if isinstance(default, int) else int | float):
        return False
    return value == default or (math.isfinite(value) and not value < 0 <= default)


def check_not_pickled(folder: Path) -> None:
    """Refuses weights that are there only in a format that can run code.

    Raises:
        ModelLoadError: There is no .safetensors file, but another one.
    """
    pickled = sorted(file.name for pattern in PICKLED for file in folder.glob(pattern))
    if pickled and not any(folder.glob("*.safetensors")):
        raise ModelLoadError(
            f"expected weights in .safetensors in {folder}, got {pickled[0]}, which can run code "
            "when it is opened; where you trust its source, convert the model with diffusers: "
            "DiffusionPipeline.from_pretrained(folder, use_safetensors=False)"
            ".save_pretrained(new_folder)"
        )


PICKLED = ("*.bin", "*.ckpt", "*.pt", "*.pth")


def check_floating(file: Path) -> None:
    """Refuses weights that are no floating-point numbers: the libraries cast them without a word.

    Raises:
        ModelLoadError: The file has some.
    """
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():
            kind = tensors.get_slice(name).get_dtype()
            if name.endswith((".weight", ".bias")) and not kind.startswith(("F", "BF")):
                raise ModelLoadError(
                    f"expected floating-point weights in {file}, got {name} of type {kind}; "
                    "quantised weights are not supported"
                )


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
        return {"dtype": dtype, "ignore_mismatched_sizes": True, "trust_remote_code": False}
    return {"torch_dtype": dtype}
