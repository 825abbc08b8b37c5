"""The stage for NeMo Curator, in the real package: its scores, contract, executor."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("nemo_curator", reason="nemo-curator needs Python 3.11")

from curate_datasets import unit_embeddings
from curate_ray import RAY_WARNINGS, local_ray
from nemo_curator.backends.base import BaseStageAdapter
from nemo_curator.backends.ray_data import RayDataExecutor
from nemo_curator.pipeline import Pipeline
from nemo_curator.tasks import ImageBatch, ImageObject

from aesthetic_client import Client, ImageError, InputError, UnavailableError
from aesthetic_curate.nemo import ERROR_KEY, TritonAestheticStage

CLOSE = {"abs": 5e-4}  # two requests differ by as much when Triton batches them differently
LIKE = "sa_0_4_vit_l_14_linear"


@pytest.fixture(scope="module")
def arrays(photographs: list[Path]) -> list[np.ndarray]:
    """Real photographs, decoded as NeMo's reader does: uint8 RGB (H, W, 3), of many sizes."""
    return [np.asarray(Image.open(path).convert("RGB")) for path in photographs[:12]]


@pytest.fixture
def stage(tiny_server: Any) -> Iterator[TritonAestheticStage]:
    stage = TritonAestheticStage(url=tiny_server.grpc_url, score_threshold=-1e9, timeout_s=60)
    stage.setup()
    yield stage
    stage.teardown()


def batch_of(values: Sequence[Any], field: str = "image_data") -> ImageBatch:
    images = [
        ImageObject(image_path=f"gone/{k}.jpg", image_id=str(k), **{field: value})
        for k, value in enumerate(values)
    ]
    return ImageBatch(dataset_name="photos", data=images, _metadata={"source": "here"})


def ids(batch: ImageBatch) -> list[str]:
    return [image.image_id for image in batch.data]


def reference(url: str, images: Sequence[Any]) -> tuple[list[float], np.ndarray]:
    """Scores and embeddings as the client gives them."""
    with Client(url, decode="client") as client:
        results = list(client.score_many(images, embedding=True))
    return [r.score for r in results], np.stack([r.embedding for r in results])


def test_it_wants_a_cpu_and_no_gpu() -> None:
    stage = TritonAestheticStage(num_gpus_per_worker=2.0, model_dir="anywhere")
    assert (stage.resources.cpus, stage.resources.gpus) == (1.0, 0.0)
    assert not stage.resources.requires_gpu and not stage.is_fanout_stage()


def test_an_empty_batch_asks_nobody() -> None:
    stage = TritonAestheticStage(url="127.0.0.1:1", retry_s=0)
    empty = stage.process(batch_of([]))
    assert empty.data == [] and empty.dataset_name == "photos"


@pytest.mark.triton
def test_scores_are_the_clients_and_the_threshold_keeps_what_equals_it(
    tiny_server: Any, arrays: list[np.ndarray]
) -> None:
    expected, embeddings = reference(tiny_server.grpc_url, arrays)
    stage = TritonAestheticStage(url=tiny_server.grpc_url, score_threshold=-1e9)
    stage.setup()
    batch = batch_of(arrays)
    images = list(batch.data)
    scored = stage.process(batch)
    assert scored is not batch and batch.data == images  # the input's list stays whole
    assert scored._metadata is batch._metadata and scored._stage_perf is batch._stage_perf
    assert scored.dataset_name == "photos" and scored.data == images
    assert [image.aesthetic_score for image in images] == pytest.approx(expected, **CLOSE)
    for image, embedding in zip(images, embeddings, strict=True):
        assert image.embedding.dtype == np.float32 and image.embedding.shape == (768,)
        assert np.abs(image.embedding - embedding).max() < 1e-5
        assert image.metadata == {}
    # By the embeddings that it stored: what has the median's score is kept, in order.
    exact = [image.aesthetic_score for image in images]
    stage.score_threshold = sorted(exact)[6]
    assert ids(stage.process(batch)) == [
        str(k) for k, s in enumerate(exact) if s >= sorted(exact)[6]
    ]
    stage.teardown()


@pytest.mark.triton
def test_stored_embeddings_are_scored_as_they_are(
    tiny_server: Any, stage: TritonAestheticStage
) -> None:
    vectors = unit_embeddings(5)
    with Client(tiny_server.grpc_url) as client:
        expected = client.score_embeddings(vectors)
    batch = batch_of(list(vectors), "embedding")
    scored = stage.process(batch)
    assert [image.aesthetic_score for image in scored.data] == pytest.approx(expected, abs=1e-5)
    assert all(
        image.embedding is vectors[k] or (image.embedding == vectors[k]).all()
        for k, image in enumerate(scored.data)
    )


@pytest.mark.triton
def test_embeddings_and_images_may_be_mixed(
    tiny_server: Any, stage: TritonAestheticStage, arrays: list[np.ndarray], photographs: list[Path]
) -> None:
    [by_array, by_file], embeddings = reference(
        tiny_server.grpc_url, [arrays[0], str(photographs[1])]
    )
    images = [
        ImageObject(image_id="file", image_path=str(photographs[1])),
        ImageObject(image_id="stored", embedding=embeddings[0], image_data=arrays[5]),
        ImageObject(image_id="array", image_data=arrays[0]),
    ]
    scored = stage.process(ImageBatch(dataset_name="mixed", data=images))
    found = {image.image_id: image.aesthetic_score for image in scored.data}
    expected = {"file": by_file, "stored": by_array, "array": by_array}
    assert list(found) == list(expected) and found == pytest.approx(expected, **CLOSE)
    stage.source = "image"
    again = stage.process(ImageBatch(dataset_name="mixed", data=images[1:2]))
    assert again.data[0].aesthetic_score == pytest.approx(
        reference(tiny_server.grpc_url, [arrays[5]])[0][0], **CLOSE
    )


@pytest.mark.triton
def test_further_heads_go_into_the_metadata(tiny_server: Any, arrays: list[np.ndarray]) -> None:
    with Client(tiny_server.grpc_url, decode="client") as client:
        expected = client.score(arrays[0], heads="all").scores
        names = {head.name: head.output for head in client.heads()}
    for heads, first in (("all", "sac+logos+ava1-l14-linearMSE"), ([LIKE], LIKE)):
        stage = TritonAestheticStage(url=tiny_server.grpc_url, heads=heads, score_threshold=-1e9)
        stage.setup()
        shared = {"caption": "a"}
        batch = batch_of(arrays[:1])
        batch.data[0].metadata = shared
        [image] = stage.process(batch).data
        stage.teardown()
        asked = {n: s for n, s in expected.items() if heads == "all" or n == LIKE}
        assert image.aesthetic_score == pytest.approx(expected[first], **CLOSE)
        others = {names[name]: score for name, score in asked.items() if name != first}
        assert image.metadata.pop("caption") == "a" and shared == {"caption": "a"}
        assert image.metadata == pytest.approx(others, **CLOSE)


@pytest.mark.triton
def test_what_cannot_be_scored_is_dropped_kept_or_raised(
    stage: TritonAestheticStage, arrays: list[np.ndarray], caplog_loguru: list[str]
) -> None:
    def bad() -> ImageBatch:
        batch = batch_of([arrays[0], None, arrays[1].astype(np.float32), None, arrays[1]])
        batch.data[3].embedding = unit_embeddings(1)[0] * 3
        return batch

    batch = bad()
    assert ids(stage.process(batch)) == ["0", "4"]
    assert stage._consume_custom_metrics() == {"unscored_images": 3, "kept_images": 2}
    reasons = {k: batch.data[k].metadata[ERROR_KEY] for k in (1, 2, 3)}
    assert "No such file" in reasons[1] and "uint8" in reasons[2] and "norm 3" in reasons[3]
    assert [batch.data[k].aesthetic_score for k in (1, 2, 3)] == [None] * 3
    for k in (1, 2, 3):
        assert any(f"Image {k} " in line and reasons[k] in line for line in caplog_loguru)
    stage.on_error = "keep"
    assert ids(stage.process(bad())) == ["0", "1", "2", "3", "4"]
    stage.on_error = "raise"
    with pytest.raises(ImageError, match="No such file"):
        stage.process(bad())


@pytest.fixture
def caplog_loguru() -> Iterator[list[str]]:
    from loguru import logger

    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message)))
    yield lines
    logger.remove(sink)


@pytest.mark.triton
def test_a_server_that_is_away_ends_the_stage_and_another_takes_its_place(
    tiny_server: Any, arrays: list[np.ndarray]
) -> None:
    away = TritonAestheticStage(url="127.0.0.1:1", retry_s=0.5, timeout_s=5)
    with pytest.raises(UnavailableError, match=r"0.5 s from 127.0.0.1:1"):
        away.setup()
    stage = TritonAestheticStage(
        url=["127.0.0.1:1", tiny_server.grpc_url], score_threshold=-1e9, retry_s=20
    )
    stage.setup()
    assert len(stage.process(batch_of(arrays)).data) == len(arrays)
    stage.teardown()


def test_a_head_that_is_not_served_is_named_at_the_start(tiny_server: Any) -> None:
    with pytest.raises(InputError, match="'beauty' is served"):
        TritonAestheticStage(url=tiny_server.grpc_url, heads=["beauty"]).setup()


@pytest.mark.triton
def test_it_travels_to_workers_and_through_with(
    stage: TritonAestheticStage, arrays: list[np.ndarray]
) -> None:
    for copy in (pickle.loads(pickle.dumps(stage)), stage.with_(batch_size=4)):
        assert len(copy.process(batch_of(arrays[:2])).data) == 2  # opened where it is
        copy.teardown()
    assert stage.with_(name="mine").name == "mine"


@pytest.mark.triton
def test_task_ids_are_those_that_the_original_would_leave(
    stage: TritonAestheticStage, arrays: list[np.ndarray]
) -> None:
    batches = [batch_of(arrays[:2]), batch_of([]), batch_of(arrays[2:3])]
    for k, batch in enumerate(batches):
        batch._set_task_id("0", k)
    results = BaseStageAdapter(stage).process_batch(batches)
    assert [result.task_id for result in results] == ["0_0_0", "0_1_0", "0_2_0"]
    assert [len(result.data) for result in results] == [2, 0, 1]
    for result in results:
        [perf] = result._stage_perf
        assert perf.stage_name == stage.name
        assert perf.custom_metrics == {"unscored_images": 0, "kept_images": 3}


@pytest.mark.triton
@pytest.mark.filterwarnings(*RAY_WARNINGS)
def test_a_pipeline_runs_it_on_nemos_executor(tiny_server: Any, arrays: list[np.ndarray]) -> None:
    expected, _ = reference(tiny_server.grpc_url, arrays)
    threshold = (sorted(expected)[5] + sorted(expected)[6]) / 2
    batches = [batch_of(arrays[:6]), batch_of(arrays[6:])]
    stage = TritonAestheticStage(url=tiny_server.grpc_url, score_threshold=threshold)
    with local_ray():
        results = Pipeline("photos", stages=[stage]).run(RayDataExecutor(), initial_tasks=batches)
    assert results is not None
    results.sort(key=lambda result: result.task_id)
    kept = [k for k, score in enumerate(expected) if score >= threshold]
    assert len(kept) == 6
    assert [ids(result) for result in results] == [
        [str(k) for k in kept if k < 6],
        [str(k - 6) for k in kept if k >= 6],
    ]
    found = [image.aesthetic_score for result in results for image in result.data]
    assert found == pytest.approx([expected[k] for k in kept], **CLOSE)
    for result in results:
        assert result.dataset_name == "photos" and result._metadata == {"source": "here"}
        assert result._stage_perf[0].custom_metrics["unscored_images"] == 0
    assert [image.aesthetic_score for image in batches[0].data] == [None] * 6


def test_cosines_with_aesthetic_embeddings_are_metadata(
    tiny_server: Any, arrays: list[np.ndarray], tmp_path: Path
) -> None:
    direction = unit_embeddings(1, seed=8)[0]
    np.save(tmp_path / "mine.npy", direction * 7)
    _, embeddings = reference(tiny_server.grpc_url, arrays[:2])
    stage = TritonAestheticStage(
        url=tiny_server.grpc_url, score_threshold=-1e9, like=[str(tmp_path / "mine.npy")]
    )
    for values, field in ((list(embeddings), "embedding"), (arrays[:2], "image_data")):
        done = stage.process(batch_of(values, field))
        found = [image.metadata["like_mine"] for image in done.data]
        assert found == pytest.approx(embeddings @ direction, abs=2e-5)
    stage.teardown()
