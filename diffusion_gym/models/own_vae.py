"""Another image decoder than a checkpoint's own."""

import json
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from diffusion_gym.errors import ModelLoadError, first_line
from diffusion_gym.models.added_files import find_added
from diffusion_gym.models.architectures.base import AUTOENCODERS
from diffusion_gym.models.checkpoint import (
    check_complete,
    check_floating,
    file_digest,
    load_folder,
    weight_files,
)
from diffusion_gym.parsing import parse

CONFIG = "config.json"


@dataclass(frozen=True)
class OwnVae:
    """A VAE that is to be loaded in the place of a checkpoint's.

    Attributes:
        folder: Where its configuration is.
        file: Its weights, where these are a single file; None: those of the folder.
        variant: Which of the folder's files to load, where it has several.
    """

    folder: Path
    file: Path | None = None
    variant: str | None = None

    @classmethod
    def find(
        cls,
        name: str,
        own: Path,
        variant: str | None,
        download: Callable[[str], Path],
    ) -> "OwnVae":
        """Finds what the model option ``vae`` names.

        Args:
            name: A folder, of a VAE or of a model that has one, a file, or a hub id.
            own: Folder of the checkpoint's own VAE, whose configuration is a single file's.
            variant: The model's.
            download: From a hub id to a folder.

        Raises:
            InvalidInputError: It names nothing that can be a VAE.
            ModelLoadError: It cannot be had from the hub, or is a folder without a VAE.
        """
        wanted = "a folder, a .safetensors file or a hub id"
        path = find_added("vae", name, wanted, download)
        if path.is_file():
            return cls(own, path)
        folder = path / "vae" if (path / "vae" / CONFIG).is_file() else path
        if not (folder / CONFIG).is_file():
            raise ModelLoadError(
                f"expected the model option 'vae' to be a folder of a VAE in diffusers' format, "
                f"with a {CONFIG}, or of a model that has one, got {path}"
            )
        return cls(folder, None, variant)

    @property
    def key(self) -> Hashable:
        """The same for what gives the same network."""
        return self.folder.resolve(), self.file and self.file.resolve(), self.variant

    @property
    def part_class(self) -> Any:
        """Its class.

        Raises:
            ModelLoadError: Its configuration is damaged, or of another class.
        """
        file = self.folder / CONFIG
        try:
            name = parse(json.loads, file.read_text(encoding="utf-8"))["_class_name"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelLoadError(
                f"expected {file} to name the class of a VAE, got {type(error).__name__}: "
                f"{first_line(error)}"
            ) from error
        if name not in AUTOENCODERS:
            raise ModelLoadError(
                f"the VAE in {self.folder} is a {name}; supported: {', '.join(AUTOENCODERS)}"
            )
        return getattr(diffusers, name)

    def load(self, dtype: torch.dtype) -> nn.Module:
        """Loads it; any exception means that it cannot be loaded."""
        if self.file is None:
            return load_folder(self.folder, self.part_class, dtype, self.variant)
        check_floating(self.file)
        network: nn.Module = self.part_class.from_single_file(
            str(self.file), config=str(self.folder), torch_dtype=dtype, local_files_only=True
        )
        # What the file lacks is left on the meta device: without numbers.
        missing = sorted(name for name, value in network.state_dict().items() if value.is_meta)
        check_complete(network, str(self.file), missing)
        return network

    @property
    def digests(self) -> list[bytes]:
        """What tells its weights from others."""
        files = weight_files(self.folder, self.variant) if self.file is None else [self.file]
        return [file_digest(file) for file in sorted(files)]
