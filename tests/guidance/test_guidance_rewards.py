"""Reward functions against scores that were asked for one by one."""

from __future__ import annotations

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from aesthetic_client import Client
from aesthetic_client.contract import DEFAULT_HEAD, HEADS, SEEDED_WEIGHTS
from aesthetic_client.errors import EmbeddingError, ImageError, InputError, UnavailableError
from aesthetic_guidance.embeddings import AestheticEmbedding
from aesthetic_guidance.http_rewards import http_reward
from aesthetic_guidance.reward_images import eight_bit, png_bytes
from aesthetic_guidance.reward_terms import parse_terms
from aesthetic_guidance.rewards import aesthetic_reward
from generated_images import texture

OTHER = HEADS[1].name
NOWHERE = "127.0.0.1:1"
VECTOR = np.random.default_rng(5).standard_normal(768)


@pytest.fixture(scope="module")
def generated() -> np.ndarray:
    """uint8 (9, 96, 80, 3), all different."""
    return np.stack([texture(80, 96, 3, seed=k) for k in range(9)])


@pytest.fixture(scope="module")
def client(tiny_server):
    with Client(tiny_server.grpc_url) as client:
        yield client


@pytest.fixture(scope="module")
def expected(client, generated) -> dict[str, np.ndarray]:
    """Scores and cosines of lossless files, one request each."""
    results = []
    for image in generated:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        results.append(client.score(buffer.getvalue(), heads="all", embedding=True))
    unit = VECTOR / np.linalg.norm(VECTOR)
    found = {name: np.array([r.scores[name] for r in results]) for name in results[0].scores}
    return {**found, "like": np.array([r.embedding.astype(float) @ unit for r in results])}


def as_tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


@pytest.mark.triton
def test_every_form_of_images_has_the_same_rewards(client, generated, expected):
    forms = {
        "floats": as_tensor(generated).requires_grad_(),
        "double": as_tensor(generated).double(),
        "bytes": torch.from_numpy(generated).permute(0, 3, 1, 2),
        "array": generated,
        "float array": generated.astype(np.float32) / 255,
        "list": list(as_tensor(generated)),
        "pil": [Image.fromarray(image) for image in generated],
        "files": [png_bytes(image) for image in generated],
    }
    reward = aesthetic_reward(client)
    for name, images in forms.items():
        rewards, info = reward(images, ["a prompt"] * 9, [{}] * 9)
        assert (rewards.dtype, rewards.shape) == (np.float32, (9,)), name
        assert np.abs(rewards - expected[DEFAULT_HEAD.name]).max() < 1e-4, name
        assert info["meaningless"] == SEEDED_WEIGHTS and "errors" not in info
    # What DDPO's and TRL's loops make of it.
    assert torch.cat([torch.as_tensor(rewards, device="cpu")] * 2).shape == (18,)
    assert np.ptp(expected[DEFAULT_HEAD.name]) > 1e-3  # so that another order would be seen


@pytest.mark.triton
def test_heads_and_vectors_are_added_up(client, generated, expected, tmp_path):
    embedding = AestheticEmbedding.of(VECTOR)
    for like in (VECTOR, VECTOR[None].astype(np.float32) * 7, VECTOR.tolist(), embedding):
        rewards, info = aesthetic_reward(client, like)(generated)
        assert np.abs(rewards - expected["like"]).max() < 1e-4
        assert list(info["terms"]) == ["like"]
    head = [(HEADS[0].output, 0.5), (OTHER, 2), (torch.from_numpy(VECTOR).half(), 3.0)]
    rewards, info = aesthetic_reward(client, head)(generated)
    total = 0.5 * expected[DEFAULT_HEAD.name] + 2 * expected[OTHER] + 3 * expected["like"]
    assert np.abs(rewards - total).max() < 2e-3  # the vector came in half precision
    assert np.abs(info["terms"][OTHER] - expected[OTHER]).max() < 1e-4
    by_name, _ = aesthetic_reward(client, {OTHER: -1})(generated)
    assert np.abs(by_name + expected[OTHER]).max() < 1e-4
    with pytest.raises(InputError, match="'nonsense' is served"):
        aesthetic_reward(client, "nonsense")(generated)


@pytest.mark.triton
def test_a_bad_image_raises_with_its_place_or_is_nan(tiny_server, generated, expected):
    images = [*as_tensor(generated)]
    images[2] = images[2].clone()
    images[2][1, 3, 4] = torch.nan
    images[5] = b"not a picture"
    with aesthetic_reward(tiny_server.grpc_url, in_flight=3) as reward:
        with pytest.raises(InputError, match=r"images\[2\]: has pixels that are NaN"):
            reward(images, None, None)
        images[2] = images[0]
        with pytest.raises(ImageError, match=r"images\[5\]: "):
            reward(images)
    images[2] = torch.full((3, 8, 8), torch.nan)
    with aesthetic_reward(tiny_server.grpc_url, on_error="nan") as reward:
        rewards, info = reward(images)
        assert np.flatnonzero(np.isnan(rewards)).tolist() == [2, 5] == list(info["errors"])
        assert "NaN" in info["errors"][2] and "[" in info["errors"][5]
        good = [0, 1, 3, 4, 6, 7, 8]
        assert np.abs(rewards - expected[DEFAULT_HEAD.name])[good].max() < 1e-4
        empty, info = reward([])
        assert (empty.shape, empty.dtype) == ((0,), np.float32)


@pytest.mark.triton
def test_threads_share_a_function(client, generated, expected):
    reward = aesthetic_reward(client)
    with ThreadPoolExecutor(3) as pool:  # as DDPO calls it
        parts = pool.map(lambda start: reward(generated[start : start + 3])[0], (0, 3, 6))
        rewards = np.concatenate(list(parts))
    assert np.abs(rewards - expected[DEFAULT_HEAD.name]).max() < 1e-4


def test_floats_are_rounded_as_ddpo_rounds_them():
    values = torch.cat([torch.arange(0, 256) / 255, torch.linspace(0, 1, 4001)])
    values = torch.cat([values, torch.tensor([0.5 / 255, 1.5 / 255, 2.5 / 255])])
    images = values.repeat(1, 3, 1, 1)
    ddpo = (images * 255).round().clamp(0, 255).to(torch.uint8).numpy().transpose(0, 2, 3, 1)
    assert (eight_bit(images[0]) == ddpo[0]).all()
    assert (eight_bit(images[0].permute(1, 2, 0).numpy()) == ddpo[0]).all()
    for dtype in (torch.float16, torch.bfloat16):
        narrow = images[0].to(dtype)
        found = eight_bit(narrow)
        wide = np.rint(narrow.double().numpy() * 255)
        assert np.abs(found.transpose(2, 0, 1) - wide).max() == 0
        own = (narrow * 255).round().clamp(0, 255).to(torch.uint8).numpy()
        assert np.abs(found.transpose(2, 0, 1).astype(int) - own).max() <= 1
    slack = eight_bit(torch.tensor([-5e-4, 1.0005]).repeat(3, 1, 1))
    assert slack[..., 0].tolist() == [[0, 255]]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.full((3, 2, 2), torch.inf), "NaN or infinite"),
        (np.full((2, 2, 3), np.nan, np.float16), "NaN or infinite"),
        (torch.linspace(-1, 1, 12).reshape(3, 2, 2), r"from -1 to 1, expected \[0, 1\]"),
        (torch.full((3, 2, 2), 200.0), "from 200 to 200"),
        (torch.zeros(2, 2, 3), r"expected a tensor \(3, H, W\), got shape \(2, 2, 3\)"),
        (np.zeros((3, 8, 8), np.uint8), r"expected an array \(H, W, 3\), got shape \(3, 8, 8\)"),
        (np.zeros((0, 4, 3), np.uint8), r"got shape \(0, 4, 3\)"),
        (np.zeros((4, 4, 3), np.int64), "expected uint8 or floats"),
    ],
)
def test_images_that_are_none_are_refused(image, words):
    with pytest.raises(InputError, match=words):
        eight_bit(image)
    with pytest.raises(InputError, match=r"^images\[0\]: "):
        aesthetic_reward(NOWHERE)([image])


def test_what_is_no_batch_is_refused():
    for images, words in (
        (np.zeros((4, 4, 3), np.uint8), r"four dimensions, got shape \(4, 4, 3\)"),
        ("a.png", "got str"),
        (None, "got NoneType"),
    ):
        with pytest.raises(InputError, match=words):
            aesthetic_reward(NOWHERE)(images)


def test_pngs_are_what_pillow_reads(generated):
    random = np.random.default_rng(0)
    for shape in ((1, 1, 3), (5, 7, 3), (5, 7, 4), (5, 7), (96, 80, 3)):
        image = random.integers(0, 256, shape, dtype=np.uint8)
        with Image.open(io.BytesIO(png_bytes(image))) as read:
            assert (np.asarray(read) == image).all() and read.mode in ("RGB", "RGBA", "L")
    palette = Image.fromarray(generated[0]).quantize(16)
    with Image.open(io.BytesIO(png_bytes(palette))) as read:
        assert read.mode == "P" and (np.asarray(read) == np.asarray(palette)).all()
    with pytest.raises(InputError, match="convert it to RGB first"):
        png_bytes(Image.new("CMYK", (2, 2)))
    with pytest.raises(InputError, match="got float"):
        png_bytes(3.0)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ([], "at least one"),
        ({}, "at least one"),
        (3, "got int"),
        ([("a", 1), ("a", 2)], "'a' is named twice"),
        ({"a": float("nan")}, "weight of 'a' is nan"),
        ({"a": True}, "weight of 'a' is True"),
        ([("a", "b")], "weight of 'a' is 'b'"),
        ([1.0, 2.0], r"of shape \(768,\), got \(2,\)"),
        (np.zeros(768), "all zero"),
        (np.full(768, np.nan), "NaN"),
        ([("a", 1), (object(), 1)], r"got \(0,\)"),
        ([("like", 2), (VECTOR, 1)], "'like' names a head and the cosine"),
        ([(VECTOR, 1), (VECTOR, 1), ("like_2", 1)], "'like_2' names a head and the cosine"),
        ({"a": 10**400}, "weight of 'a' is beyond 1e308"),
        ([10**400] * 768, "a number beyond 1e308"),
    ],
)
def test_heads_that_are_none_are_refused(head, words):
    with pytest.raises((InputError, EmbeddingError), match=words):
        parse_terms(head)


@pytest.mark.parametrize("url", ["gpu:abc", "gpu:99999", "http://[::1", "ftp://gpu", "http://"])
def test_addresses_that_are_none_are_refused(url):
    with pytest.raises(InputError, match="expected http://host:port of a reward server, got"):
        http_reward(url)


def test_a_server_that_is_away_raises_also_where_errors_are_nan(generated):
    with Client(NOWHERE, retry_s=0) as client, pytest.raises(UnavailableError):
        aesthetic_reward(client, on_error="nan")(generated)
    with pytest.raises(InputError, match="on_error"):
        aesthetic_reward(NOWHERE, on_error="skip")


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("http_rewards", "torch PIL aesthetic_export safetensors starlette rich"),
        ("rewards", "torch PIL aesthetic_export safetensors starlette rich"),
        ("reward_service", "torch aesthetic_export safetensors rich"),
        ("cli.reward_server", "torch safetensors onnx open_clip huggingface_hub"),
    ],
)
def test_they_need_no_torch(module, absent):
    program = (
        "import importlib, sys\n"
        f"for name in {absent.split()}: sys.modules[name] = None\n"
        f"importlib.import_module('aesthetic_guidance.{module}')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
