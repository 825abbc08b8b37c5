"""A text tower small enough for tests, and the same weights in transformers' model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from aesthetic_client import contract
from aesthetic_export.add_ons import makers
from aesthetic_export.openclip import open_clip_transformer
from aesthetic_export.repository import build_repository
from aesthetic_export.text_towers import TextShape, seeded_text_tower
from aesthetic_export.towers import Tower

TINY_TEXT = TextShape(width=32, layers=2, heads=2)
SERVED_TEXT = TextShape(layers=1)  # as wide as the contract says


def tiny_text_tower(seed: int = 0, shape: TextShape = TINY_TEXT) -> Tower:
    """Random weights, biases and layer norms included, so that no two tensors are alike."""
    tower = seeded_text_tower(seed, shape)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tower.module.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return tower


def build_text_repository(target: Path, tower: Tower) -> Path:
    """A servable repository of the add-ons `text` and `personalize` alone; returns `target`."""
    add_ons = (contract.TEXT, contract.PERSONALIZE)
    build_repository(target, add_ons=add_ons, makers=makers(add_ons, text_tower=tower))
    for model in contract.MODELS:  # there is no image tower to serve
        shutil.rmtree(target / model.name)
    return target


def transformers_layers(state: dict[str, torch.Tensor], root: str) -> dict[str, torch.Tensor]:
    """open_clip's `transformer.resblocks` as transformers names them, q, k and v apart."""
    renamed: dict[str, torch.Tensor] = {}
    layers = {name.split(".")[2] for name in state if name.startswith("transformer.resblocks.")}
    for layer in layers:
        here, there = f"transformer.resblocks.{layer}.", f"{root}encoder.layers.{layer}."
        for kind in ("weight", "bias"):
            q, k, v = state[f"{here}attn.in_proj_{kind}"].chunk(3)
            renamed[f"{there}self_attn.q_proj.{kind}"] = q.clone()
            renamed[f"{there}self_attn.k_proj.{kind}"] = k.clone()
            renamed[f"{there}self_attn.v_proj.{kind}"] = v.clone()
            renamed[f"{there}self_attn.out_proj.{kind}"] = state[f"{here}attn.out_proj.{kind}"]
            renamed[f"{there}layer_norm1.{kind}"] = state[f"{here}ln_1.{kind}"]
            renamed[f"{there}layer_norm2.{kind}"] = state[f"{here}ln_2.{kind}"]
            renamed[f"{there}mlp.fc1.{kind}"] = state[f"{here}mlp.c_fc.{kind}"]
            renamed[f"{there}mlp.fc2.{kind}"] = state[f"{here}mlp.c_proj.{kind}"]
    return renamed


def transformers_text_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """open_clip's text tower as Hugging Face's CLIPModel names it, written out by hand."""
    renamed = {
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_model.final_layer_norm.weight": state["ln_final.weight"],
        "text_model.final_layer_norm.bias": state["ln_final.bias"],
        "text_projection.weight": state["text_projection"].t().contiguous(),
    }
    return renamed | transformers_layers(state, "text_model.")


def transformers_text_model(tower: Tower, shape: TextShape = TINY_TEXT, **config: Any) -> Any:
    """A `CLIPTextModelWithProjection` with the tower's weights, built from a config."""
    open_clip_transformer()  # lets torchvision be imported on a CPU-only PyTorch
    transformers = pytest.importorskip("transformers")
    settings = transformers.CLIPTextConfig(
        **{
            "vocab_size": 49408,
            "hidden_size": shape.width,
            "intermediate_size": 4 * shape.width,
            "projection_dim": 768,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "max_position_embeddings": 77,
            "hidden_act": "quick_gelu",
            "bos_token_id": 49406,
            "eos_token_id": 49407,
            **config,
        }
    )
    model = transformers.CLIPTextModelWithProjection(settings)
    model.load_state_dict(transformers_text_names(dict(tower.module.state_dict())))
    return model.eval()


def sd_tokenizer(transformers: Any) -> Any:
    """Stable Diffusion 1.x's `CLIPTokenizer`, from open_clip's copy of the merges."""
    from open_clip.tokenizer import SimpleTokenizer

    ours = SimpleTokenizer()
    vocabulary = dict(ours.encoder)
    vocabulary["<|startoftext|>"] = vocabulary.pop("<start_of_text>")
    vocabulary["<|endoftext|>"] = vocabulary.pop("<end_of_text>")
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=list(ours.bpe_ranks))
