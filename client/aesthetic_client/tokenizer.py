"""Prompts to tokens exactly as OpenAI's CLIP does it: byte-level BPE over cleaned, lower-case text.

The rules are those of `clip/simple_tokenizer.py` in github.com/openai/CLIP. Its vocabulary file
lies beside a served model, or in open_clip_torch where that is installed. Needs the `text` extra
(ftfy and regex), and neither torch nor an import of open_clip.
"""

from __future__ import annotations

import gzip
import html
import warnings
import zlib
from collections.abc import Sequence
from functools import lru_cache
from heapq import heappop, heappush
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesthetic_client.contract import CONTEXT_LENGTH
from aesthetic_client.errors import InputError

VOCABULARY_FILE = "bpe_simple_vocab_16e6.txt.gz"  # a heading, then a merge a line
VOCABULARY_SIZE = 49408
START, END = VOCABULARY_SIZE - 2, VOCABULARY_SIZE - 1
# What follows the end of text. No embedding depends on it, for attention is causal; the hidden
# states of those positions do.
PAD_ZERO = 0  # as OpenAI's clip.tokenize
PAD_END = END  # as transformers' CLIPTokenizer, and so Stable Diffusion 1.x
MAX_TOKENS = CONTEXT_LENGTH - 2  # of a prompt; what follows them has no effect
# Of a prompt, whose 75 tokens are some 400. Nested entities (&amp;amp;amp; ...) cost their square:
# 0.02 s at this length, 0.5 s at five times as much.
MAX_CHARACTERS = 2_000

_SPECIAL = {"<|startoftext|>": START, "<|endoftext|>": END}
_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|"
    r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
_BYTES = 256
_GONE = -1  # merged into the token on its left
_KEPT_WORDS = 1 << 14
_KEPT_LENGTH = 64  # characters: strangers must not fill a server's memory with long words

Merges = dict[tuple[int, int], int]


class TruncationWarning(UserWarning):
    """A prompt was longer than 75 tokens: what follows them has no effect."""


class Tokenizer:
    """Prompts to tokens by one vocabulary file; open_clip's copy of it by default.

    Raises InputError for a file that is not OpenAI's vocabulary.
    """

    def __init__(self, vocabulary: Path | None = None) -> None:
        self._merges = _read_merges(vocabulary or default_vocabulary())
        self._short_word = lru_cache(_KEPT_WORDS)(self._merged)

    def encode(self, prompt: str, *, position: str = "prompt") -> list[int]:
        """A prompt's tokens, all of them, without start and end.

        Raises InputError as `check_prompt`.
        """
        check_prompt(prompt, position=position)
        tokens: list[int] = []
        for word in _pattern().findall(clean(prompt)):
            special = _SPECIAL.get(word)
            tokens.extend([special] if special is not None else self._word(word))
        return tokens

    def rows(
        self, prompts: Sequence[str], *, pad: int = PAD_ZERO
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """(n, 77) tokens, and how many each prompt has (n,); from 76 on the rest is left out.

        A row is the start of text, at most 75 tokens, the end of text, then `pad`.
        Raises InputError as `encode`, with the prompt's position.
        """
        tokens = np.full((len(prompts), CONTEXT_LENGTH), pad, np.int64)
        counts = np.zeros(len(prompts), np.int32)
        for index, prompt in enumerate(prompts):
            encoded = self.encode(prompt, position=f"prompts[{index}]")
            kept = encoded[:MAX_TOKENS]
            tokens[index, : len(kept) + 2] = [START, *kept, END]
            counts[index] = len(encoded)
        return tokens, counts

    def _word(self, word: str) -> tuple[int, ...]:
        return self._short_word(word) if len(word) <= _KEPT_LENGTH else self._merged(word)

    def _merged(self, word: str) -> tuple[int, ...]:
        """Merge neighbours, the earliest merge of the vocabulary first and from left to right.

        A merge comes later in the vocabulary than those that its parts come from, so a queue of
        pairs gives this order, in n log n steps for n bytes.
        """
        merges, numbers = self._merges, _alphabet().index
        tokens = [numbers(byte) for byte in word.encode()]
        tokens[-1] += _BYTES  # the byte that ends a word
        count = len(tokens)
        before, after = list(range(-1, count - 1)), list(range(1, count + 1))
        queue: list[tuple[int, int, int, tuple[int, int]]] = []

        def offer(left: int, right: int) -> None:
            if left >= 0 and right < count:
                pair = tokens[left], tokens[right]
                if pair in merges:
                    heappush(queue, (merges[pair], left, right, pair))

        for left in range(count - 1):
            offer(left, left + 1)
        while queue:
            merged, left, right, pair = heappop(queue)
            if (tokens[left], tokens[right]) != pair:
                continue  # one of the two was merged with its other neighbour
            tokens[left], tokens[right] = merged, _GONE
            after[left] = after[right]
            if after[left] < count:
                before[after[left]] = left
            offer(before[left], left)
            offer(left, after[left])
        return tuple(token for token in tokens if token != _GONE)


def tokenize(prompts: str | Sequence[str], *, pad: int = PAD_ZERO) -> NDArray[np.int64]:
    """(n, 77) tokens as `Tokenizer.rows` gives them, by the default vocabulary.

    Warns with TruncationWarning of each prompt that is cut. Raises InputError as `rows`.
    """
    if isinstance(prompts, str):
        prompts = [prompts]
    tokens, counts = _default().rows(prompts, pad=pad)
    warn_of_cut(prompts, counts, stacklevel=3)
    return tokens


def encode(prompt: str, *, position: str = "prompt") -> list[int]:
    """A prompt's tokens as `Tokenizer.encode` gives them, by the default vocabulary."""
    return _default().encode(prompt, position=position)


def check_prompt(prompt: object, *, position: str) -> None:
    """Raises InputError for what is no text, has no UTF-8, or is longer than MAX_CHARACTERS."""
    if not isinstance(prompt, str):
        raise InputError(f"expected text, got {type(prompt).__name__}", position=position)
    if len(prompt) > MAX_CHARACTERS:
        raise InputError(
            f"{len(prompt)} characters, more than {MAX_CHARACTERS}: only some 400 have an effect",
            position=position,
        )
    try:
        prompt.encode()
    except UnicodeEncodeError as error:  # a lone surrogate, such as of arguments that are no UTF-8
        raise InputError(
            f"a str that UTF-8 cannot encode, from character {error.start} on", position=position
        ) from None


def decoded(data: bytes, *, position: str) -> str:
    """A prompt as it is sent. Raises InputError for what is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 from byte {error.start} on", position=position) from None


def warn_of_cut(prompts: Sequence[str], counts: NDArray[np.int32], *, stacklevel: int) -> None:
    """A TruncationWarning for each prompt that has more tokens than take effect."""
    for index, (prompt, count) in enumerate(zip(prompts, counts.tolist(), strict=True)):
        if count > MAX_TOKENS:
            warnings.warn(
                f"prompts[{index}] has {count} tokens, of which the first {MAX_TOKENS} "
                f"are used: {prompt[:40]!r}...",
                TruncationWarning,
                stacklevel=stacklevel,
            )


def default_vocabulary() -> Path:
    """open_clip's copy of OpenAI's vocabulary file. Raises InputError where it is not installed."""
    spec = find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise InputError(
            "the tokenizer's vocabulary comes with open_clip_torch: install it, or name the file"
        )
    return Path(spec.origin).parent / VOCABULARY_FILE


def clean(prompt: str) -> str:
    """Mojibake mended, HTML entities resolved twice, single spaces, lower case."""
    text = html.unescape(html.unescape(_of_the_extra("ftfy").fix_text(prompt)))
    return " ".join(text.split()).lower()


def _of_the_extra(name: str) -> Any:
    """A module of the `text` extra. Raises InputError where that is not installed."""
    try:
        return import_module(name)
    except ImportError:
        raise InputError(f"prompts need {name}; pip install 'aesthetic-triton[text]'") from None


@lru_cache(maxsize=1)
def _default() -> Tokenizer:
    return Tokenizer()


@lru_cache(maxsize=1)
def _pattern() -> Any:
    regex = _of_the_extra("regex")
    return regex.compile(_WORDS, regex.IGNORECASE)


@lru_cache(maxsize=1)
def _alphabet() -> bytes:
    """All bytes in the vocabulary's order: those that Latin-1 prints first."""
    printed = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return bytes([*printed, *(byte for byte in range(_BYTES) if byte not in printed)])


def _read_merges(path: Path) -> Merges:
    """(token, token) -> the token that replaces them.

    Tokens are numbered: 256 bytes, 256 bytes at a word's end, one a merge, start and end of text.
    The file writes a byte that Latin-1 does not print as one of the characters from U+0100 on.
    """
    written = [chr(b) for b in _alphabet()[:188]] + [chr(0x100 + n) for n in range(_BYTES - 188)]
    numbers = {character: n for n, character in enumerate(written)}
    numbers |= {f"{character}</w>": _BYTES + n for n, character in enumerate(written)}
    merges: Merges = {}
    try:
        lines = gzip.decompress(path.read_bytes()).decode().split("\n")
        for number in range(2 * _BYTES, START):
            left, right = lines[number - 2 * _BYTES + 1].split()
            merges[numbers[left], numbers[right]] = numbers[left + right] = number
        if len(merges) != START - 2 * _BYTES:
            raise ValueError
    except (OSError, EOFError, zlib.error, ValueError, LookupError) as error:
        raise InputError(
            f"{path} is not CLIP's vocabulary, {VOCABULARY_FILE}: {type(error).__name__}"
        ) from None
    return merges
