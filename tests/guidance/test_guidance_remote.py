"""Scores and gradients from the real Triton: the local scorer's, without its tower."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from remote_scorers import MINE, RELU, SEEDED, TOWER, VECTOR, CountingClient, assert_alike
from scored_images import gradient, images, relative
from torch import nn

from aesthetic_client import Client, contract
from aesthetic_client.contract import HEADS
from aesthetic_client.errors import InputError, NotServedError
from aesthetic_export.samples import unit_vectors
from aesthetic_guidance.loss import AestheticLoss
from aesthetic_guidance.remote import RemoteAestheticScorer
from aesthetic_guidance.scorer import AestheticScorer
from gradients import GradientExport, build_gradient_repository

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def url(gradient_export: GradientExport, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the gradients and the heads of the tiny tower alone."""
    from aesthetic_serve import EmbeddedServer

    target = tmp_path_factory.mktemp("remote") / "repository"
    build_gradient_repository(target, gradient_export, (*SEEDED, MINE))
    with EmbeddedServer(target) as server:
        yield server.grpc_url


@pytest.fixture
def client(url: str) -> Iterator[CountingClient]:
    with CountingClient(url, timeout_s=60) as client:
        client.calls = []
        yield client


@pytest.mark.parametrize(
    ("head", "local"),
    [
        *((head.name, weights) for head, weights in zip(HEADS, SEEDED, strict=True)),
        ("aesthetic_score", SEEDED[0]),
        ("my taste", MINE),
        (MINE, MINE),
        (SEEDED[4], SEEDED[4]),
        (RELU, RELU),
        (VECTOR, VECTOR),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_scores_and_gradients_are_the_local_ones(client, head, local):
    remote, local = RemoteAestheticScorer(client, head), AestheticScorer(TOWER, local)
    assert_alike(remote, local, images(2))
    assert remote.head_name == local.head_name
    assert remote.weights == contract.SEEDED_WEIGHTS and remote.meaningless


@pytest.mark.parametrize("size", [(224, 224), (250, 230)])
def test_any_size_and_grey(client, size):
    remote, local = RemoteAestheticScorer(client), AestheticScorer(TOWER, SEEDED[0])
    assert_alike(remote, local, images(1, *size))
    assert_alike(remote, local, images(1, *size)[:, :1])
    rounded = RemoteAestheticScorer(client, round_to_8bit=True)
    assert_alike(rounded, AestheticScorer(TOWER, SEEDED[0], round_to_8bit=True), images(1, *size))


def test_a_score_and_its_gradient_are_one_call(client):
    remote = RemoteAestheticScorer(client)
    client.calls.clear()
    with torch.no_grad():
        alone = remote(images(2).requires_grad_())
    assert torch.equal(remote(images(2)), alone) and not alone.requires_grad
    assert client.calls == [(2, ("score",))] * 2
    client.calls.clear()
    scores = remote(images(2).requires_grad_())
    scores.sum().backward()
    assert torch.equal(scores.detach(), alone)
    assert client.calls == [(2, ("score", "pixel_gradient"))]


def test_large_batches_go_as_several_requests_in_their_order(client):
    remote, local = RemoteAestheticScorer(client), AestheticScorer(TOWER, SEEDED[0])
    client.calls.clear()
    pixels = images(19, 20, 20)
    assert_alike(remote, local, pixels)
    assert sorted(rows for rows, _ in client.calls) == [3, 8, 8]
    assert float(remote.score(pixels).std()) > 0.1  # rows that changed places would show


def test_embeddings_have_gradients_by_a_second_call(client):
    remote, local = RemoteAestheticScorer(client, VECTOR), AestheticScorer(TOWER, VECTOR)
    client.calls.clear()
    generator = torch.Generator().manual_seed(0)
    ways = torch.randn(2, 768, generator=generator)
    found = []
    for scorer in (remote, local):
        pixels = images(2).requires_grad_()
        embeddings = scorer.embed(pixels)
        (embeddings * ways).sum().backward()
        found.append((embeddings.detach(), pixels.grad))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-6)
    assert relative(found[0][1], found[1][1]) < 1e-4
    assert client.calls == [(2, ("embedding",)), (2, ("pixel_gradient",))]


def test_finite_differences_agree(client):
    """With a step that is long enough to show in fp32, and short enough to be straight."""
    remote = RemoteAestheticScorer(client)
    pixels = images(1)
    found = gradient(remote, pixels)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(pixels.shape, generator=generator)
    for way in (found / found.norm(), (found / found.norm() + noise / noise.norm()) / 2):
        step = 1e-3
        with torch.no_grad():
            ahead, behind = (float(remote.score(pixels + s * step * way)) for s in (1, -1))
        expected = (ahead - behind) / (2 * step)
        assert float((found * way).sum()) == pytest.approx(expected, rel=1e-3)


def test_optimising_through_it_changes_no_answer_of_the_server(client):
    remote = RemoteAestheticScorer(client)
    before, slope = remote.score(images()), gradient(remote, images())
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid(), remote)
    model.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.5)
    scores = []
    for _ in range(4):
        optimizer.zero_grad()
        score = model(images()).mean()
        (-score).backward()
        optimizer.step()
        scores.append(float(score.detach()))
    assert scores[-1] > scores[0]
    assert len(list(model.parameters())) == 2 and set(model.state_dict()) == {"0.weight", "0.bias"}
    model.half()  # rounds the convolution, not the head
    assert torch.equal(remote.score(images()), before)
    assert torch.equal(gradient(remote, images()), slope)


def test_losses_take_it(client):
    settings = {"weight": 0.5, "target": 7.0, "diversity": 2.0}
    found = []
    for scorer in (RemoteAestheticScorer(client), AestheticScorer(TOWER, SEEDED[0])):
        loss = AestheticLoss(scorer, **settings)
        pixels = images(3).requires_grad_()
        value = loss(pixels)
        value.backward()
        found.append((loss.log, pixels.grad))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    assert relative(found[0][1], found[1][1]) < 1e-4


def test_a_diversity_term_beside_a_served_mlp(client):
    found = []
    for scorer in (RemoteAestheticScorer(client, RELU.source.name), AestheticScorer(TOWER, RELU)):
        loss = AestheticLoss(scorer, diversity=2.0)
        pixels = images(3).requires_grad_()
        loss(pixels).backward()
        found.append((loss.log, pixels.grad))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    assert relative(found[0][1], found[1][1]) < 1e-4


def test_a_served_mlp_scores_embeddings_and_says_what_it_cannot(client):
    remote, local = RemoteAestheticScorer(client, HEADS[2].name), AestheticScorer(TOWER, RELU)
    vectors = torch.from_numpy(unit_vectors(3))
    with torch.no_grad():
        torch.testing.assert_close(
            remote.score_embeddings(vectors), local.score_embeddings(vectors), rtol=0, atol=2e-5
        )
    with pytest.raises(InputError, match=r"has activations, .*give its HeadWeights"):
        remote.score_embeddings(vectors.requires_grad_())
    with pytest.raises(InputError, match=r"embeddings: expected \(B, 768\), got \(3, 512\)"):
        remote.score_embeddings(vectors[:, :512])


def test_second_derivatives_are_refused(client):
    remote = RemoteAestheticScorer(client)
    for function in (remote.score, remote.embed):
        pixels = images(1).requires_grad_()
        value = (function(pixels) ** 2).sum()
        (first,) = torch.autograd.grad(value, pixels, create_graph=True)
        with pytest.raises(
            InputError, match=r"use AestheticScorer .*sdpa_kernel\(SDPBackend.MATH\)"
        ):
            first.sum().backward()


def test_pixels_may_change_in_place_before_the_backward_pass(client):
    """As an optimiser's step on them does, where a graph is kept."""
    remote = RemoteAestheticScorer(client)
    for function in (remote.score, remote.embed):
        found = []
        for factor in (1.0, 0.5):
            pixels = images(2, 225, 225)[..., 1:, 1:].clone().requires_grad_()  # not resized
            value = function(pixels)[:, :1].sum()
            with torch.no_grad():
                pixels.mul_(factor)
            value.backward()
            found.append(pixels.grad)
        assert found[0].any() and torch.equal(*found)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo's own
def test_it_is_left_alone_by_compile_and_taken_by_transforms(client):
    remote = RemoteAestheticScorer(client, VECTOR)
    for settings in ({}, {"diversity": 2.0}):
        plain = AestheticLoss(remote, **settings).eval()
        found = []
        for loss in (plain, torch.compile(plain, backend="eager")):
            pixels = images(2).requires_grad_()
            loss(pixels).backward()
            found.append(pixels.grad)
        assert torch.equal(*found)
    for function in (remote.score, remote.embed):
        transformed = torch.func.grad(lambda given, of=function: of(given)[:, 0].sum())(images(2))
        pixels = images(2).requires_grad_()
        function(pixels)[:, 0].sum().backward()
        assert pixels.grad.any() and torch.equal(transformed, pixels.grad)


def test_copies_share_the_connection_and_places_follow_the_model(client, url):
    with RemoteAestheticScorer(url, VECTOR) as remote:
        copied = copy.deepcopy(AestheticLoss(remote)).scorer
        assert copied.client is remote.client and copied is not remote
        copied.close()  # not its own
        assert torch.equal(copied.score(images(1)), remote.score(images(1)))
    assert remote.device == torch.device("cpu")
    assert nn.Sequential(remote).to("meta") and remote.device == torch.device("meta")
    assert not remote.state_dict()


def test_other_float_types_and_autocast(client):
    remote = RemoteAestheticScorer(client)
    pixels = images().to(torch.bfloat16).requires_grad_()
    scores = remote.score(pixels)
    scores.sum().backward()
    assert scores.dtype == torch.float32 and pixels.grad.dtype == torch.bfloat16
    assert torch.equal(scores, remote.score(pixels.detach().float()))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(remote.score(images()), remote.score(images()))
        assert remote.score(images()).dtype == torch.float32


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.zeros(3, 60, 60), r"one image needs a batch axis: images\[None\]"),
        (torch.zeros(1, 3, 9, 9, dtype=torch.uint8), "use images / 255"),
        (torch.full((1, 3, 9, 9), 2.0), r"expected values in \[0, 1\], got 2 to 2"),
        (torch.full((1, 3, 9, 9), torch.nan), "NaN"),
    ],
)
def test_images_are_refused_as_by_the_local_scorer(client, given, words):
    remote = RemoteAestheticScorer(client)
    client.calls.clear()
    for function in (remote.score, remote.embed):
        with pytest.raises(InputError, match=words):
            function(given)
    assert client.calls == []


def test_heads_and_servers_that_cannot_serve(client, url):
    with pytest.raises(InputError, match=r"no head named 'beauty' is served; these are: .*my tast"):
        RemoteAestheticScorer(client, "beauty")
    with pytest.raises(InputError, match="expected 768 numbers"):
        RemoteAestheticScorer(client, np.ones(512))
    with pytest.raises(InputError, match="in_flight must be 1 or more"):
        RemoteAestheticScorer(client, in_flight=0)

    class Plain(Client):
        def provenance(self, models: Any = ()) -> Any:
            return super().provenance([replace(contract.AESTHETIC_GRADIENT, name="not_there")])

    with Plain(url) as plain, pytest.raises(NotServedError, match="aesthetic export --with grad"):
        RemoteAestheticScorer(plain)


def test_a_url_is_enough(url):
    with RemoteAestheticScorer(url) as remote:
        assert remote.score(images(1)).shape == (1, 1)
