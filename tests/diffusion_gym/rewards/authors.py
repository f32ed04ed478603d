"""Random weights and pictures on which the rewards' authors' own code was run.

``reference/*.json`` holds what came of it. Weights are drawn here in the authors' own naming, name
by name in sorted order from numpy's generator: neither a library's initialisation nor the order in
which it creates its layers has any influence, so that they are the same for ever.
"""

import gzip
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

REFERENCE = Path(__file__).parent / "reference"

PROMPTS = ["A photo of a Cat", "two dogs, watercolour & ink", "a house in the snow at night"]

WORDS = "a photo of cat two dogs water ##colour & , ink house in the snow at night ##s".split()


def pictures(height: int, width: int) -> Tensor:
    """Draws pictures [3, 3, H, W] of bytes: waves, a disc and noise; all alike; a gradient."""
    y, x = np.mgrid[0:height, 0:width]
    waves = 127 + 90 * np.sin(x / 5.0) * np.cos(y / 7.0)
    waves[(x - width / 2) ** 2 + (y - height / 2) ** 2 < (height / 4) ** 2] = 255
    noise = np.random.default_rng(7).integers(-30, 31, (height, width))
    first = np.stack([waves + noise, 255 - waves, np.roll(waves, 9, axis=1)])
    second = np.stack([np.full_like(waves, level) for level in (200, 30, 90)])
    third = np.stack([255.0 * x / width, 255.0 * y / height, 255.0 * (x > y)])
    return torch.from_numpy(np.stack([first, second, third]).clip(0, 255).astype(np.uint8))


def draw(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, Tensor]:
    """Draws weights: of gain 2, vectors near 0 or, for the weights of normalisations, near 1."""
    generator = np.random.default_rng(seed)
    weights = {}
    for name in sorted(shapes):
        shape = tuple(shapes[name])
        values = generator.standard_normal(shape).astype(np.float32)
        if name.endswith("logit_scale"):
            values = np.float32(math.log(100.0) + 0.1 * values)
        elif math.prod(shape) == max(shape):
            values = 0.2 * values + float(len(shape) == 1 and name.endswith("weight"))
        else:
            values = values * np.float32(2.0 / math.sqrt(math.prod(shape[1:])))
        weights[name] = torch.tensor(values, dtype=torch.float32).reshape(shape)
    return weights


def reference(name: str) -> dict[str, Any]:
    """Reads what was recorded of a reward."""
    return json.loads((REFERENCE / f"{name}.json").read_text())


def images(name: str, size: str) -> Tensor:
    """The pictures of one of a reward's recorded sizes, as floats in [0, 1]."""
    return pictures(*reference(name)["sizes"][size]).float() / 255


def save_clip(folder: Path, name: str, seed: int) -> Path:
    """Saves a CLIP of a reward's recorded sizes as transformers does."""
    recorded = reference(name)
    folder.mkdir()
    weights = draw(recorded["parameters"], seed)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(recorded["config"]))
    (folder / "preprocessor_config.json").write_text(json.dumps(recorded["preprocessor"]))
    write_clip_tokenizer(folder)
    return folder


def write_clip_tokenizer(folder: Path) -> None:
    """Writes CLIP's own tokenizer as transformers reads it, from the merges in open_clip."""
    import open_clip

    file = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(file.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    vocabulary = open_clip.tokenizer.SimpleTokenizer().encoder
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(word, word): index for word, index in vocabulary.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    special = {"bos_token": "<|startoftext|>"}
    special |= dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_bert_tokenizer(folder: Path) -> None:
    """Writes a tokenizer that knows a few words, in the layout of ``bert-base-uncased``."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*special, *WORDS]) + "\n")
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
