"""LoRA weights of others, fused into the networks of a checkpoint."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
from diffusers.configuration_utils import FrozenDict
from diffusers.loaders.lora_base import fuse_text_encoder_lora
from diffusers.utils import is_peft_available, recurse_remove_peft_layers
from safetensors import safe_open
from torch import nn

from diffusion_gym.errors import InvalidInputError, ModelLoadError, one_line, shown
from diffusion_gym.models.architectures import Architecture
from diffusion_gym.models.checkpoint import check_floating, file_digest
from diffusion_gym.parsing import as_path

USUAL_NAME = "pytorch_lora_weights.safetensors"
ADAPTER = "fused"
"""The name that peft knows the adapters by, until they are fused."""


@dataclass(frozen=True)
class FusedLora:
    """LoRA weights, and how much of them is added to the weights of a model.

    Attributes:
        file: In any naming that diffusers' pipeline of the model loads.
        scale: Multiplies the update.
    """

    file: Path
    scale: float

    @classmethod
    def find(cls, name: str, scale: float, download: Callable[[str], Path]) -> "FusedLora":
        """Finds what the model option ``lora_weights`` names.

        Args:
            name: A file, a folder with one, or a hub id.
            scale: Multiplies the update.
            download: From a hub id to a folder.

        Raises:
            InvalidInputError: It names nothing that can be LoRA weights, or peft is missing.
            ModelLoadError: They cannot be had from the hub, or are not there.
        """
        if not is_peft_available():
            raise InvalidInputError(
                f"the model option lora_weights={shown(name)} needs the package peft: expected it "
                "to be installed (pip install peft)"
            )
        path = as_path("model option 'lora_weights'", name)
        if path.is_file():
            if path.suffix != ".safetensors":  # a pickled file could run code
                raise InvalidInputError(
                    "expected the model option 'lora_weights' to be a .safetensors file, got "
                    f"{path}; pickled weights (.ckpt, .bin, .pt) can run code when they are opened"
                )
            return cls(path, scale)
        if not path.is_dir():
            if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
                raise InvalidInputError(
                    "expected the model option 'lora_weights' to be a .safetensors file, a folder "
                    f"with one or a hub id, got {shown(name)}"
                )
            path = download(name)
        files = sorted(path.glob("*.safetensors"))
        usual = [file for file in files if file.name == USUAL_NAME]
        if len(usual or files) != 1:
            raise ModelLoadError(
                f"expected one .safetensors file of LoRA weights in {path}, or {USUAL_NAME}, got "
                f"{', '.join(file.name for file in files[:4]) or 'none'}; name the file itself"
            )
        return cls((usual or files)[0], scale)

    @property
    def key(self) -> Hashable:
        """The same for what gives the same networks."""
        return self.file.resolve(), self.scale

    @property
    def digests(self) -> list[bytes]:
        """What tells these weights from others."""
        return [file_digest(self.file), repr(self.scale).encode()]

    def fuse(
        self,
        network: Any,
        part: str,
        architecture: Architecture,
        denoiser_config: Mapping[str, Any],
    ) -> None:
        """Adds the update to a network's weights, in place, as diffusers' ``fuse_lora`` does.

        Args:
            network: The denoiser, or a text encoder.
            part: Its name in the pipeline.
            architecture: The kind of model.
            denoiser_config: The denoiser's configuration, by which blocks of kohya's names are
                found.

        Raises:
            ModelLoadError: The file is no LoRA of such a model, or not all of it fits.
        """
        loader = getattr(diffusers, architecture.pipeline)
        try:
            weights, alphas, metadata = self._read(loader, denoiser_config)
            self._check_parts(weights, architecture)
            wanted = [name for name in weights if name.startswith(f"{part}.")]
            if not wanted:
                return
            options = {"network_alphas": alphas, "metadata": metadata, "adapter_name": ADAPTER}
            if part == architecture.denoiser_part:
                if alphas is None:  # which of the transformers' loaders know nothing of
                    del options["network_alphas"]
                network.load_lora_adapter(weights, prefix=part, **options)
            else:
                options["network_alphas"] = alphas or {}
                loader.load_lora_into_text_encoder(
                    weights, text_encoder=network, prefix=part, **options
                )
        except ModelLoadError:
            raise
        except Exception as error:  # the libraries raise every kind of exception for a bad file
            raise ModelLoadError(
                f"the LoRA weights in {self.file} do not fit the {part} of the model: expected "
                f"LoRA of a {architecture.pipeline}, got {type(error).__name__}: "
                f"{one_line(str(error))}"
            ) from error
        self._check_loaded(network, part, wanted)
        if part == architecture.denoiser_part:
            network.fuse_lora(lora_scale=self.scale)
            network.unload_lora()
        else:
            fuse_text_encoder_lora(network, lora_scale=self.scale)
            _unload(network)

    def _read(
        self, loader: Any, denoiser_config: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any] | None]:
        """The tensors by their parts and layers, kohya's alphas, and diffusers' own metadata."""
        check_floating(self.file)
        with safe_open(self.file, framework="pt") as tensors:
            left_out = [name for name in tensors.keys() if "dora_scale" in name]
        if left_out:
            raise ModelLoadError(
                f"the LoRA weights in {self.file} are DoRA, whose {left_out[0]} diffusers would "
                "leave out: expected LoRA"
            )
        read = loader.lora_state_dict(
            str(self.file),
            return_lora_metadata=True,
            use_safetensors=True,
            local_files_only=True,
            unet_config=FrozenDict(denoiser_config),
        )
        weights, *alphas, metadata = read
        return weights, (alphas[0] if alphas else None) or None, metadata

    def _check_parts(self, weights: Mapping[str, Any], architecture: Architecture) -> None:
        """Refuses what no part of the model would load: diffusers would only warn."""
        texts = set(architecture.text_encoder_parts) - set(architecture.optional_parts)
        known = (architecture.denoiser_part, *sorted(texts))
        others = [
            name for name in weights if name.partition(".")[0] not in known or "lora" not in name
        ]
        if others or not weights:
            raise ModelLoadError(
                f"the LoRA weights in {self.file} are not of this model: expected LoRA of a "
                f"{architecture.pipeline}'s {', '.join(known)}, got "
                f"{shown(others[0]) if others else 'an empty file'}"
            )

    def _check_loaded(self, network: nn.Module, part: str, wanted: list[str]) -> None:
        """Refuses weights of which the network has taken some only."""
        loaded = [name for name, _ in network.named_parameters() if f".{ADAPTER}." in name]
        if len(loaded) != len(wanted) or any(p.is_meta for p in network.parameters()):
            raise ModelLoadError(
                f"the LoRA weights in {self.file} do not fit the {part} of the model: expected "
                f"all of their {len(wanted)} tensors to be loaded, got {len(loaded)}; they are of "
                "another model, or of a kind that diffusers does not know"
            )


def _unload(text_encoder: Any) -> None:
    """Leaves the fused weights, as diffusers' ``unload_lora`` does for its own networks."""
    recurse_remove_peft_layers(text_encoder)
    del text_encoder.peft_config
    text_encoder._hf_peft_config_loaded = False
