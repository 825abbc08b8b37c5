"""Tokens equal those of open_clip's copy of OpenAI's tokenizer; what cannot be one is refused."""

from __future__ import annotations

import gzip
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from aesthetic_client import tokenizer
from aesthetic_client.errors import InputError
from aesthetic_client.tokenizer import (
    END,
    MAX_CHARACTERS,
    PAD_END,
    START,
    VOCABULARY_FILE,
    VOCABULARY_SIZE,
    Tokenizer,
    TruncationWarning,
    default_vocabulary,
    encode,
    tokenize,
)
from aesthetic_export.openclip import open_clip_transformer

NASTY = [
    "",
    " \t\r\n\u00a0\u3000 ",
    "a photo of a cat",
    "A  Photo\tof\n\na   CAT!!!",
    "it's we're I'M they'Ll can't 'tis rock'n'roll o'd",
    "1234567890 3.14159 x2 ½ ² Ⅷ ٣",
    "a cat &amp; a dog &lt;b&gt; &amp;amp; &#39;quoted&#39; &#x1F600; &nbsp; &bogus;",
    "schÃ¶n cafÃ© â€œquotesâ€\x9d l\u2019amour",
    "ΑΝΔΡΕΑΣ straße İstanbul \u017f \u212aelvin \u212bngström \ufb01ne",
    "漢字 かな カナ 한국어 ภาษาไทย العربية עברית हिन्दी",
    "👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301 u\u0308 \u200b\ufeff zero",
    "\x00\x01\x1b[31mred\x7f",
    "!!!???...---___***///\\\\\\",
    "</w> </w>a a</w>",
    "<start_of_text_> <| |> <|endoftex|>",
    "by greg rutkowski, trending on artstation:1.3, (masterpiece:1.2), [ugly]",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa abababababababababab",
    "supercalifragilisticexpialidocious" * 3,
    "https://example.org/a?b=c&d=%20e#f",
]


@pytest.fixture(scope="module")
def reference():
    open_clip_transformer()
    import open_clip

    return open_clip.get_tokenizer("ViT-L-14")


@pytest.mark.filterwarnings("ignore::aesthetic_client.tokenizer.TruncationWarning")
def test_nasty_prompts_equal_open_clip(reference):
    tokens = tokenize(NASTY)
    assert tokens.shape == (len(NASTY), 77)
    assert tokens.dtype == np.int64
    for prompt, row, expected in zip(NASTY, tokens, reference(NASTY).numpy(), strict=True):
        assert np.array_equal(row, expected), prompt


def test_random_text_equals_open_clip(reference):
    """Merges in every order: few letters often, all letters, all planes, entities."""
    draw = random.Random(0)
    alphabets = [
        "abcde ",
        "aab '.-",
        "etaoinshrdlu ",
        "".join(chr(c) for c in range(32, 0x600)),
        "".join(chr(draw.randrange(32, 0xD800)) for _ in range(500)),
        "".join(chr(draw.randrange(0x10000, 0x20000)) for _ in range(100)),
        "&amp;lt#039;x ",
    ]
    for _ in range(1500):
        letters = draw.choice(alphabets)
        text = "".join(draw.choice(letters) for _ in range(draw.randrange(60)))
        assert encode(text) == reference.encode(text), text


def test_known_tokens():
    """`a photo of a cat` as every CLIP tutorial prints it."""
    assert encode("a photo of a cat") == [320, 1125, 539, 320, 2368]
    assert tokenize("")[0, :3].tolist() == [START, END, 0]
    assert tokenize("a cat", pad=PAD_END)[0, 3:].tolist() == [END] * 74
    assert (START, END, VOCABULARY_SIZE) == (49406, 49407, 49408)


def test_75_tokens_fit_and_the_76th_is_cut_with_a_warning(reference):
    fits = "cat " * 75
    assert tokenize(fits)[0].tolist() == [START, *[2368] * 75, END]
    with pytest.warns(TruncationWarning, match=r"prompts\[1\] has 76 tokens.* first 75") as caught:
        tokens = tokenize([fits, "cat " * 75 + "dog"])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert np.array_equal(tokens, reference([fits, "cat " * 75 + "dog"]).numpy())
    assert tokens[1, -1] == END


def test_special_tokens_are_spelled_as_openai_spells_them(reference):
    """The one difference from open_clip, which renamed them `<start_of_text>`, `<end_of_text>`."""
    assert encode("a <|EndOfText|> b<|startoftext|>") == [320, END, 321, START]
    assert reference.encode("a <end_of_text> b<start_of_text>") == [320, END, 321, START]
    assert END not in encode("<end_of_text>")


def test_transformers_tokenizer_of_stable_diffusion_agrees(tmp_path):
    """Built from the same merges, padded with the end of text."""
    open_clip_transformer()
    transformers = pytest.importorskip("transformers")
    from text_towers import sd_tokenizer

    theirs = sd_tokenizer(transformers)
    prompts = ["", "a photo of a cat", "It's Tuscany, 1867!", "Straße 漢字 🏳️‍🌈", "word " * 75]
    found = theirs(prompts, padding="max_length", truncation=True, max_length=77)["input_ids"]
    assert found == tokenize(prompts, pad=PAD_END).tolist()


def test_a_long_prompt_is_quick_and_a_longer_one_refused():
    assert len(encode("a" * MAX_CHARACTERS)) > 200
    begun = time.process_time()
    encode(f"&{'amp;' * (MAX_CHARACTERS // 4 - 1)}")  # entities, nested
    assert time.process_time() - begun < 0.2
    with pytest.raises(InputError, match=r"prompts\[1\]: 2001 characters"):
        tokenize(["ok", "a" * (MAX_CHARACTERS + 1)])


@pytest.mark.parametrize("wrong", [b"bytes", None, 3, ["nested"]])
def test_what_is_no_text_is_named(wrong):
    with pytest.raises(InputError, match=rf"prompts\[1\]: expected text.*{type(wrong).__name__}"):
        tokenize(["fine", wrong])


def test_what_utf_8_cannot_encode_is_no_prompt():
    """As a command's argument of other bytes is; it would be read as U+FFFD, without a word."""
    with pytest.raises(InputError, match=r"prompts\[1\]: a str .* from character 2 on"):
        tokenize(["\ufffd is one", "a \ud800 cat"])


def test_no_prompts_are_no_tokens():
    assert tokenize([]).shape == (0, 77)


def test_tokenizing_needs_neither_torch_nor_open_clip():
    code = (
        "import sys; from aesthetic_client.tokenizer import tokenize; tokenize('a'); "
        "print([m for m in ('torch', 'open_clip', 'torchvision') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_counts_are_of_the_whole_prompt_and_rows_never_warn():
    tokens, counts = Tokenizer().rows(["", "a cat", "cat " * 75, "cat " * 99], pad=PAD_END)
    assert counts.tolist() == [0, 2, 75, 99]
    assert counts.dtype == np.int32
    assert tokens[1].tolist() == [START, *encode("a cat"), *[END] * 74]
    assert np.array_equal(tokens[2], tokens[3])


def test_a_copy_of_the_vocabulary_is_as_good(tmp_path, reference):
    path = tmp_path / VOCABULARY_FILE
    path.write_bytes(default_vocabulary().read_bytes())
    assert Tokenizer(path).encode(NASTY[6]) == reference.encode(NASTY[6])


@pytest.mark.parametrize(
    "content", [b"", b"text", gzip.compress(b"a b\n" * 50_000), gzip.compress(b"x" * 100)]
)
def test_another_file_is_no_vocabulary(tmp_path, content):
    (tmp_path / "merges.gz").write_bytes(content)
    with pytest.raises(InputError, match=r"merges.gz is not CLIP's vocabulary"):
        Tokenizer(tmp_path / "merges.gz")


@pytest.mark.parametrize("name", ["ftfy", "regex"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    tokenizer._pattern.cache_clear()
    with pytest.raises(InputError, match=rf"{name}; pip install 'aesthetic-triton\[text\]'"):
        encode("a cat")


def test_a_long_word_is_not_kept_in_memory():
    new = Tokenizer()
    long, short = "ab" * 400, "abab"
    assert new.encode(f"{long} {short}") == encode(long) + encode(short)
    assert new._short_word.cache_info().currsize == 1
