"""Personalised prompts by a server's `aesthetic_personalize`: no text model in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from aesthetic_client import Client
from aesthetic_client.contract import (
    AESTHETIC_EMBEDDING,
    AESTHETIC_PERSONALIZE,
    AGREEMENT,
    LAST_HIDDEN_STATE,
    PROMPT,
    RECIPE,
    TEXT_EMBEDDING,
    TOKEN_COUNT,
)
from aesthetic_client.tokenizer import check_prompt, warn_of_cut
from aesthetic_guidance.personalize import Personalized, unit_target
from aesthetic_guidance.recipe_json import recipe_as_json
from aesthetic_guidance.recipes import Recipe


def personalize_remote(
    prompts: str | Sequence[str], embedding: Any, client: Client, recipe: Recipe | None = None
) -> list[Personalized]:
    """`personalize_each` on the server: the same results on the CPU, without the original states.

    Each prompt is a request of its own, so that `client.timeout_s` is for one prompt's steps, some
    0.4 s each on two cores. Warns with TruncationWarning of prompts that are cut. Raises as
    `personalize`, InputError for more steps than the server allows, NotServedError where it has no
    such model: `aesthetic export --with personalize` adds it.
    """
    listed = [prompts] if isinstance(prompts, str) else list(prompts)
    for index, prompt in enumerate(listed):
        check_prompt(prompt, position=f"prompts[{index}]")
    target = unit_target(embedding).numpy()[None]
    written = recipe_as_json(recipe or Recipe())
    answers = [
        client.infer(
            AESTHETIC_PERSONALIZE,
            {PROMPT.name: [prompt], AESTHETIC_EMBEDDING.name: target, RECIPE.name: [written]},
        )
        for prompt in listed
    ]
    counts = np.array([answer[TOKEN_COUNT.name][0, 0] for answer in answers], np.int32)
    warn_of_cut(listed, counts, stacklevel=3)
    return [
        Personalized(
            prompt,
            torch.from_numpy(answer[LAST_HIDDEN_STATE.name][0].copy()),
            None,
            torch.from_numpy(answer[TEXT_EMBEDDING.name][0].copy()),
            tuple(float(value) for value in answer[AGREEMENT.name][0]),
        )
        for prompt, answer in zip(listed, answers, strict=True)
    ]
