"""The artifacts of the add-ons `text` and `personalize`: vocabulary, text tower, its weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from aesthetic_client.contract import AESTHETIC_PERSONALIZE, CLIP_TEXT_TOWER, TOKENIZE
from aesthetic_client.errors import InputError
from aesthetic_client.tokenizer import (
    PAD_END,
    VOCABULARY_FILE,
    VOCABULARY_SIZE,
    Tokenizer,
    default_vocabulary,
)
from aesthetic_export import parity, provenance
from aesthetic_export.certification import Exported, Say, certified
from aesthetic_export.files import sha256_of
from aesthetic_export.onnx_export import check_quick_gelu_graph, onnx_from_module
from aesthetic_export.text_parity import text_parity
from aesthetic_export.text_weights import write_text_weights
from aesthetic_export.towers import Tower, check_quick_gelu

# github.com/openai/CLIP, clip/bpe_simple_vocab_16e6.txt.gz, MIT licence
VOCABULARY_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
_VOCABULARY_SOURCE = f"https://github.com/openai/CLIP/blob/main/clip/{VOCABULARY_FILE}"
# What the comparison looks at: short, empty, cut, and other scripts.
_PROMPTS = (
    "a photo of a cat",
    "",
    "Hills of Tuscany, oil on canvas, 1867",
    "word " * 80,
    "漢字 и кириллица 🏳️‍🌈",
)


class ClipText(nn.Module):
    """Tokens to text embedding and hidden states, everything in fp32.

    In: (N, 77) int64. Out: (N, 768) fp32 of length 1, and (N, 77, width) fp32. A row that holds
    what is no token gets NaN: a lookup that fails would fail its neighbours in the batch too.
    """

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.eval().requires_grad_(False)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        known = tokens.clamp(0, VOCABULARY_SIZE - 1)
        features, hidden = self.tower(known)
        bad = (known != tokens).any(dim=-1, keepdim=True)
        embedding = functional.normalize(features, dim=-1).masked_fill(bad, torch.nan)
        return embedding, hidden.masked_fill(bad.unsqueeze(-1), torch.nan)


def export_vocabulary(version: Path, say: Say) -> Exported | None:
    """Copy the tokenizer's vocabulary into `tokenize`. There is nothing to compare.

    Raises InputError where the installed copy is not OpenAI's file.
    """
    say(f"copying the tokenizer's vocabulary into {TOKENIZE.name}")
    origin = default_vocabulary()
    path = Path(shutil.copy(origin, version / VOCABULARY_FILE))
    if (found := sha256_of(path)) != VOCABULARY_SHA256:
        raise InputError(f"{origin} is not OpenAI's vocabulary: its SHA-256 is {found}")
    known = {
        "model": TOKENIZE.name,
        "source": _VOCABULARY_SOURCE,
        "licence": "MIT",
        **provenance.made_now(),
        "artifact_sha256": {VOCABULARY_FILE: found},
    }
    provenance.write_provenance(version, known)
    return None


def export_text_tower(version: Path, tower: Tower, say: Say) -> Exported:
    """Write `clip_text_tower` into its version folder as ONNX, and compare it with torch.

    Raises ActivationError for a tower without QuickGELU, ParityError.
    """
    layers = check_quick_gelu(tower.module)
    known = provenance.text_tower_provenance(tower, CLIP_TEXT_TOWER)
    say(f"exporting {CLIP_TEXT_TOWER.name} ({layers} layers, {tower.weights})")
    module = ClipText(tower.module)
    files = onnx_from_module(
        module,
        CLIP_TEXT_TOWER,
        version,
        metadata=provenance.metadata_of(known),
        external_data=True,
    )
    check_quick_gelu_graph(files[0], layers)
    say(f"comparing {CLIP_TEXT_TOWER.name} with its torch module")
    tokens, _ = Tokenizer().rows(_PROMPTS, pad=PAD_END)
    session = parity.onnx_session(files[0])
    report = text_parity(
        lambda rows: parity.run_onnx(session, rows),
        parity.run_torch(module, tokens),
        tokens,
        batches=[[0], [1], range(len(tokens))],
    )
    return report, certified(known, files, report)


def export_text_weights(version: Path, tower: Tower, say: Say) -> Exported | None:
    """Write the text tower's weights into `aesthetic_personalize`.

    There is nothing to compare: they are the weights. Raises ActivationError.
    """
    layers = check_quick_gelu(tower.module)
    say(f"writing the weights of {AESTHETIC_PERSONALIZE.name} ({layers} layers, {tower.weights})")
    known = provenance.text_tower_provenance(tower, AESTHETIC_PERSONALIZE)
    path = write_text_weights(version, tower, known)
    hashes = {path.name: sha256_of(path)}
    provenance.write_provenance(version, {**known, "artifact_sha256": hashes})
    return None
