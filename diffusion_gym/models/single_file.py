"""Single-file checkpoints in the original layout, as Stable Diffusion models are passed around."""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.loaders.single_file_utils import SingleFileComponentError
from torch import nn

from diffusion_gym.errors import ModelLoadError
from diffusion_gym.models.checkpoint import Checkpoint, check_complete, check_floating, file_digest


class SingleFileCheckpoint(Checkpoint):
    """One .safetensors file with the weights of all networks.

    Args:
        file: The file.
        folder: A diffusers folder of the same kind of model, of which only configurations,
            tokenizers and scheduler are used.
    """

    def __init__(self, file: Path, folder: Path) -> None:
        super().__init__(folder)
        self.file = file

    @property
    def key(self) -> Hashable:
        """The file and the folder."""
        return self.file.resolve(), self.folder.resolve()

    @property
    def place(self) -> str:
        """The file and, as that may be what is wrong, the folder."""
        return f"{self.file} (with the configuration in {self.folder})"

    def _network(self, part: str, part_class: Any, dtype: torch.dtype) -> nn.Module:
        """Lets diffusers' pipeline load one of its parts, translating the weights' names."""
        del part_class  # the pipeline reads it in the same place
        check_floating(self.file)
        pipeline_class = getattr(diffusers, self.architecture.pipeline)
        others = {other: None for other in self.architecture.parts if other != part}
        try:
            pipeline = pipeline_class.from_single_file(
                str(self.file),
                config=str(self.folder),
                torch_dtype=dtype,
                local_files_only=True,
                **others,
            )
        except SingleFileComponentError as error:
            raise ModelLoadError(
                f"expected a checkpoint with all networks of a {self.architecture.pipeline}, got "
                f"{self.file} without a {part}; save all of them as a diffusers folder instead"
            ) from error
        network: nn.Module = getattr(pipeline, part)
        # What the file lacks is left on the meta device: without numbers.
        missing = sorted(name for name, value in network.state_dict().items() if value.is_meta)
        check_complete(network, str(self.file), missing)
        return network

    def weights_hash(self, parts: Sequence[str]) -> str:
        """SHA-256 of the file's content, whatever its name."""
        del parts
        return file_digest(self.file).hex()
