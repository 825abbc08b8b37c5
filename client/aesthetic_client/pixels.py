"""Pixel preparation exactly as the reference does it."""

from __future__ import annotations

PREPROCESSING_ID = "openai-clip-pil-bicubic-224-v1"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # RGB, of values in [0, 1]
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
