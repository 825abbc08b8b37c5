"""The example's tiny diffusers pipeline takes personalised prompts; skipped without diffusers."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from aesthetic_guidance.personalize import personalize

EXAMPLE = Path(__file__).parents[2] / "guidance" / "examples" / "personalised_pipeline.py"
PROMPT, NEGATIVE = "Hills of Tuscany, oil on canvas", "blurry"
E = torch.randn(768, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def example() -> ModuleType:
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    spec = importlib.util.spec_from_file_location("personalised_pipeline", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pipeline(example):
    with torch.random.fork_rng(devices=[]):
        pipeline, projection = example.tiny()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, projection


def image(pipeline, **prompts) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    done = pipeline(**prompts, num_inference_steps=2, generator=generator, output_type="np")
    return done.images[0]


def test_the_original_hidden_state_is_what_the_pipeline_itself_conditions_on(pipeline):
    pipe, projection = pipeline
    found = personalize(PROMPT, E, pipe.text_encoder, projection=projection, steps=0)
    embeds, _ = pipe.encode_prompt(PROMPT, "cpu", 1, do_classifier_free_guidance=False)
    assert (found.original_hidden_state - embeds[0]).abs().max() < 1e-5
    by_text = image(pipe, prompt=PROMPT, negative_prompt=NEGATIVE)
    by_hidden = image(pipe, prompt_embeds=found.last_hidden_state[None], negative_prompt=NEGATIVE)
    assert np.abs(by_text - by_hidden).max() < 1e-3


def test_the_image_changes_and_the_negative_prompt_does_not(pipeline):
    pipe, projection = pipeline
    _, before = pipe.encode_prompt("", "cpu", 1, True, negative_prompt=NEGATIVE)
    found = personalize(PROMPT, E, pipe.text_encoder, projection=projection, lr=1e-2)
    assert found.agreement[-1] > found.agreement[0] + 0.05
    _, after = pipe.encode_prompt("", "cpu", 1, True, negative_prompt=NEGATIVE)
    assert torch.equal(before, after)
    original, changed = (
        image(pipe, prompt_embeds=hidden[None], negative_prompt=NEGATIVE)
        for hidden in (found.original_hidden_state, found.last_hidden_state)
    )
    assert np.abs(original - changed).max() > 1e-3


def test_the_command_runs_without_a_download(example, tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLE, "--lr", "1e-2", "-o", tmp_path, "--inference-steps", "1"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    agreement = re.search(r"agreement (\S+) before, (\S+) after", done.stdout)
    assert agreement is not None
    assert float(agreement[2]) > float(agreement[1])
    assert "which means nothing" in done.stdout
    original, personalised = (tmp_path / f"{n}.png" for n in ("original", "personalised"))
    assert original.read_bytes() != personalised.read_bytes()
