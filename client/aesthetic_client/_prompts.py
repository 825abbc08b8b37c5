"""Prompts to requests, and answers to one result: what both clients share of `embed_text`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesthetic_client.contract import (
    LAST_HIDDEN_STATE,
    MAX_PROMPT_BATCH,
    PROMPT,
    TEXT_EMBEDDING,
    TOKEN_COUNT,
    Tensor,
)
from aesthetic_client.results import TextResult
from aesthetic_client.tokenizer import check_prompt, warn_of_cut

Answer = Mapping[str, NDArray[Any]]


def checked_prompts(prompts: str | Sequence[str]) -> list[str]:
    """The prompts as a list. Raises InputError for what the server would refuse."""
    listed = [prompts] if isinstance(prompts, str) else list(prompts)
    for index, prompt in enumerate(listed):
        check_prompt(prompt, position=f"prompts[{index}]")
    return listed


def text_inputs(prompts: Sequence[str]) -> list[dict[str, Sequence[str]]]:
    """The inputs of CLIP_TEXT, as few requests as its maximum batch allows."""
    starts = range(0, len(prompts), MAX_PROMPT_BATCH)
    return [{PROMPT.name: prompts[start : start + MAX_PROMPT_BATCH]} for start in starts]


def text_result(
    prompts: Sequence[str], answers: Sequence[Answer], *, stacklevel: int
) -> TextResult:
    """The answers to `text_inputs` as one. Warns with TruncationWarning of prompts that are cut."""
    counts = _joined(TOKEN_COUNT, np.int32, answers)[:, 0]
    warn_of_cut(prompts, counts, stacklevel=stacklevel + 1)
    return TextResult(
        _joined(TEXT_EMBEDDING, np.float32, answers),
        _joined(LAST_HIDDEN_STATE, np.float32, answers),
        counts,
    )


def _joined(tensor: Tensor, dtype: Any, answers: Sequence[Answer]) -> NDArray[Any]:
    """The tensor of all answers, (n, *dims); no answers are no rows."""
    none = np.empty((0, *tensor.dims), dtype)
    return np.concatenate([none, *(answer[tensor.name] for answer in answers)])
