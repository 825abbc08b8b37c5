"""The aesthetic loss in every mode, against the same computed in a few lines of numpy."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from torch import nn

from aesthetic_client.errors import InputError
from aesthetic_export.heads import seeded_heads
from aesthetic_guidance.loss import AestheticLoss, WarmUp, mean_similarity
from aesthetic_guidance.reward_weighted import RewardWeightedLoss, advantages
from aesthetic_guidance.scorer import AestheticScorer
from towers import tiny_tower


class Counted(nn.Module):
    """A scorer of embeddings that are the first pixels, and scores that are ten times the first."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def score(self, images: torch.Tensor) -> torch.Tensor:
        return self.score_embeddings(self.embed(images))

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return nn.functional.normalize(images[:, :, 0, :2].flatten(1), dim=-1)

    def score_embeddings(self, embeddings: torch.Tensor) -> torch.Tensor:
        return embeddings[:, :1] * 10


class ScoresOnly:
    """As a remote scorer may be."""

    def score(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :1, 0, 0] * 10


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(5, 3, 4, 4, generator=generator).requires_grad_()


def scores_of(images: torch.Tensor) -> np.ndarray:
    """What Counted gives, in float64."""
    embeddings = images.detach().double().numpy()[:, :, 0, :2].reshape(len(images), -1)
    return 10 * embeddings[:, 0] / np.linalg.norm(embeddings, axis=1)


def gradient(loss: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    (found,) = torch.autograd.grad(loss, images, retain_graph=True)
    return found


def test_the_plain_loss_is_minus_the_mean_score(images):
    loss = AestheticLoss(Counted())
    value = loss(images)
    scores = scores_of(images)
    assert value.shape == () and value.dtype == torch.float32
    assert float(value.detach()) == pytest.approx(-scores.mean(), rel=1e-6)
    assert loss.log == pytest.approx(
        {
            "loss": -scores.mean(),
            "weight": 1,
            "score_mean": scores.mean(),
            "score_sd": np.sqrt(((scores - scores.mean()) ** 2).mean()),
        },
        rel=1e-5,
    )
    assert all(type(number) is float for number in loss.log.values())


def test_as_an_auxiliary_it_adds_its_weighted_gradient(images):
    reconstruction = ((images - 0.5) ** 2).mean()
    total = reconstruction + AestheticLoss(Counted(), weight=0.05)(images)
    alone = gradient(AestheticLoss(Counted())(images), images)
    torch.testing.assert_close(
        gradient(total, images), gradient(reconstruction, images) + 0.05 * alone
    )


@pytest.mark.parametrize(
    ("warm_up", "expected"),
    [
        (WarmUp(4), [0, 0.25, 0.5, 0.75, 1, 1]),
        (WarmUp(4, "cosine"), [0, 0.146447, 0.5, 0.853553, 1, 1]),
        (WarmUp(2, start=3), [0, 0, 0, 0, 0.5, 1]),
    ],
)
def test_a_warm_up_anneals_the_weight(images, warm_up, expected):
    loss = AestheticLoss(Counted(), weight=2, warm_up=warm_up)
    values = [float(loss(images).detach()) for _ in expected]
    np.testing.assert_allclose(
        values, -2 * np.array(expected) * scores_of(images).mean(), rtol=1e-5
    )
    assert loss.log["weight"] == 2
    assert loss.scorer.calls == np.count_nonzero(expected)  # no weight, no forward pass
    given = loss(images, step=warm_up.start + 1)  # a step of the caller's
    assert float(given.detach()) == pytest.approx(values[warm_up.start + 1])


def test_every_nth_step_is_scored_and_the_others_keep_the_graph(images):
    loss = AestheticLoss(Counted(), every=3)
    values = [loss(images) for _ in range(7)]
    assert [bool(value.detach()) for value in values] == [True, False, False] * 2 + [True]
    assert loss.scorer.calls == 3
    (values[1] + (images**2).sum()).backward()
    torch.testing.assert_close(images.grad, 2 * images.detach())
    assert not gradient(values[1], images).any()
    broken = torch.full((2, 3, 4, 4), torch.inf, requires_grad=True)
    skipped = loss(broken)  # step 7
    assert float(skipped.detach()) == 0 and not gradient(skipped, broken).any()
    assert loss.log == {"loss": 0.0, "weight": 1.0}


def test_steps_survive_a_checkpoint_and_validation(images):
    loss = AestheticLoss(Counted(), warm_up=WarmUp(10), every=2)
    for _ in range(3):
        loss(images)
    buffer = io.BytesIO()
    torch.save(loss.state_dict(), buffer)
    again = AestheticLoss(Counted(), warm_up=WarmUp(10), every=2)
    again.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    again.eval()
    for _ in range(2):  # step 3 would be skipped in training
        assert float(again(images.detach())) == pytest.approx(-0.3 * scores_of(images).mean())
    again.train()
    assert float(again(images).detach()) == 0
    assert float(again(images).detach()) == pytest.approx(-0.4 * scores_of(images).mean())


def test_clipped_scores_have_no_gradient(images):
    scores = scores_of(images)
    low, high = np.sort(scores)[1] + 1e-3, np.sort(scores)[-2] - 1e-3
    loss = AestheticLoss(Counted(), clip=(low, high))
    value = loss(images)
    assert loss.log["score_mean"] == pytest.approx(scores.mean(), rel=1e-6)  # as they are
    assert float(value.detach()) == pytest.approx(-np.clip(scores, low, high).mean(), rel=1e-6)
    found = gradient(value, images).flatten(1).abs().sum(1) > 0
    assert found.tolist() == [bool(low < score < high) for score in scores]
    assert found.sum() == 1
    open_ended = AestheticLoss(Counted(), clip=(-math.inf, high))(images)
    assert float(open_ended.detach()) == pytest.approx(-np.minimum(scores, high).mean(), rel=1e-6)


def test_a_target_is_approached_from_both_sides(images):
    scores = scores_of(images)
    target = float(np.median(scores)) + 0.1
    value = AestheticLoss(Counted(), target=target)(images)
    assert float(value.detach()) == pytest.approx(((scores - target) ** 2).mean(), rel=1e-5)
    moved = scores_of(images - 1e-3 * gradient(value, images))
    assert (np.abs(moved - target) < np.abs(scores - target)).all()


def test_diversity_is_the_mean_cosine_of_pairs(images):
    loss = AestheticLoss(Counted(), weight=0.5, diversity=3)
    value = loss(images)
    embeddings = images.detach().double().numpy()[:, :, 0, :2].reshape(5, -1)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = [embeddings[i] @ embeddings[j] for i in range(5) for j in range(5) if i != j]
    expected = 0.5 * (-scores_of(images).mean() + 3 * np.mean(cosines))
    assert float(value.detach()) == pytest.approx(expected, rel=1e-5)
    assert loss.log["similarity"] == pytest.approx(np.mean(cosines), rel=1e-5)
    assert loss.scorer.calls == 1  # one pass for both


def test_similarity_at_its_ends():
    same = torch.tensor([[0.6, 0.8]]).repeat(4, 1)
    assert float(mean_similarity(same)) == pytest.approx(1)
    angles = torch.arange(3) * 2 * math.pi / 3
    spread = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert float(mean_similarity(spread)) == pytest.approx(-0.5)
    assert float(mean_similarity(same[:1])) == 0


def test_descending_the_diversity_term_parts_images():
    embeddings = torch.randn(6, 8, generator=torch.Generator().manual_seed(3)) * 0.1 + 1
    embeddings.requires_grad_()
    optimizer = torch.optim.SGD([embeddings], lr=5)
    values = []
    for _ in range(30):
        value = mean_similarity(nn.functional.normalize(embeddings, dim=-1))
        values.append(float(value.detach()))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert values[0] > 0.98 and values[-1] < 0


def test_advantages_are_standard_scores_of_the_batch():
    scores = torch.tensor([[4.0], [5.0], [6.0], [9.0]], requires_grad=True)
    found = advantages(scores)
    expected = (np.array([4, 5, 6, 9]) - 6) / (math.sqrt(14 / 4) + 1e-4)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert not found.requires_grad
    np.testing.assert_allclose(advantages(scores, clip=1), np.clip(expected, -1, 1), rtol=1e-6)
    for equal in (torch.tensor([[5.0]]), torch.tensor([[5.0], [5.0 + 1e-6]])):
        assert advantages(equal).abs().max() < 0.01


@pytest.mark.parametrize("of", ["loss", "log_prob"])
def test_reward_weighting_gives_the_score_function_gradient(images, of):
    """A Gaussian policy's means, moved by hand: sum of A grad log p over the batch."""
    means = torch.zeros(5, requires_grad=True)
    actions = torch.tensor([0.3, -0.2, 0.5, 1.0, -1.0])
    log_prob = -((actions - means) ** 2) / 2
    weighted = RewardWeightedLoss(Counted(), weight=2, of=of)
    value = weighted(images.detach(), -log_prob if of == "loss" else log_prob)
    scores = scores_of(images)
    advantage = (scores - scores.mean()) / (scores.std() + 1e-4)
    expected = 2 * (advantage * actions.numpy() ** 2 / 2).mean()
    assert float(value.detach()) == pytest.approx(expected, rel=1e-4)
    value.backward()
    # d log p / d mean = action - mean; the loss falls where good samples become likelier
    np.testing.assert_allclose(means.grad, -2 * advantage * actions.numpy() / 5, rtol=1e-4)
    assert weighted.log["score_mean"] == pytest.approx(scores.mean(), rel=1e-5)
    assert images.grad is None


def test_positive_only_leaves_bad_samples_alone(images):
    losses = torch.ones(5, 1, requires_grad=True)
    RewardWeightedLoss(Counted(), positive_only=True)(images, losses).backward()
    scores = scores_of(images)
    assert (losses.grad.flatten() > 0).tolist() == (scores > scores.mean()).tolist()


def test_a_detached_score_would_train_nothing(images):
    """Why the loss does not detach, and says so when the images already are."""
    assert not Counted().score(images).detach().requires_grad
    with pytest.raises(InputError, match=r"carry no gradient.*RewardWeightedLoss"):
        AestheticLoss(Counted())(images.detach())
    with torch.no_grad():
        assert float(AestheticLoss(Counted())(images)) == pytest.approx(-scores_of(images).mean())
    with pytest.raises(InputError, match="per_sample carries no gradient"):
        RewardWeightedLoss(Counted())(images, torch.ones(5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every: expected 1 or more"),
        ({"weight": math.nan}, "weight: expected a finite number"),
        ({"target": math.inf}, "target: expected a finite number"),
        ({"clip": (5, 5)}, r"low < high, got \(5, 5\)"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        AestheticLoss(Counted(), **settings)


def test_other_mistakes_are_named(images):
    with pytest.raises(InputError, match="ScoresOnly gives scores"):
        AestheticLoss(ScoresOnly(), diversity=1)
    assert AestheticLoss(ScoresOnly())(images).requires_grad
    for wrong in ({"steps": 0}, {"steps": 5, "start": -1}, {"steps": 5, "shape": "quadratic"}):
        with pytest.raises(InputError, match="steps is 1 or more"):
            WarmUp(**wrong)
    with pytest.raises(InputError, match="'loss' or 'log_prob', got 'reward'"):
        RewardWeightedLoss(Counted(), of="reward")
    with pytest.raises(InputError, match="clip: expected a number above 0"):
        RewardWeightedLoss(Counted(), clip=0)
    with pytest.raises(InputError, match=r"expected one value an image, \(5,\), got \(4,\)"):
        RewardWeightedLoss(Counted())(images, torch.ones(4, requires_grad=True))


def test_the_real_scorer_takes_every_mode_at_once():
    scorer = AestheticScorer(tiny_tower(), seeded_heads(0)[0])
    model = AestheticLoss(
        scorer, 0.3, warm_up=WarmUp(2, "cosine"), every=2, clip=(-50, 50), target=6, diversity=0.5
    )
    pixels = torch.rand(3, 3, 20, 30, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert not model(pixels).detach() and not model(pixels).detach()
    value = model(pixels)
    with torch.no_grad():
        embeddings = scorer.embed(pixels).double().numpy()
        scores = scorer.score(pixels).double().numpy()
    cosine = (embeddings @ embeddings.T - np.eye(3)).sum() / 6
    expected = 0.3 * (((scores - 6) ** 2).mean() + 0.5 * cosine)
    assert float(value.detach()) == pytest.approx(expected, rel=1e-4)
    assert gradient(value, pixels).any()
    assert set(model.state_dict()) == {"_extra_state"} and not list(model.parameters())
