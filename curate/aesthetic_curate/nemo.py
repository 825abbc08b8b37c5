"""The aesthetic filter of NeMo Curator, over Triton instead of a model a worker.

    from aesthetic_curate.nemo import TritonAestheticStage
    from nemo_curator.pipeline import Pipeline
    from nemo_curator.stages.file_partitioning import FilePartitioningStage
    from nemo_curator.stages.image.io.image_reader import ImageReaderStage
    from nemo_curator.stages.image.io.image_writer import ImageWriterStage

    Pipeline(
        "photos",
        stages=[
            FilePartitioningStage(file_paths="tars/", file_extensions=[".tar"]),
            ImageReaderStage(),
            TritonAestheticStage(url=["gpu-1:8001", "gpu-2:8001"], score_threshold=5.5),
            ImageWriterStage(output_dir="kept"),
        ],
    ).run()

It takes the place of ImageEmbeddingStage and ImageAestheticFilterStage, or of the filter alone:
images that have an embedding already are scored by it. Needs the `nemo` extra.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from aesthetic_client import ScoreResult
from aesthetic_client.contract import DEFAULT_HEAD
from aesthetic_client.errors import AestheticError, InputError
from aesthetic_client.images import ImageSource
from aesthetic_curate.batch_scorer import BatchScorer
from aesthetic_curate.config import DEFAULT_PATIENCE_S, DEFAULT_TIMEOUT_S
from aesthetic_curate.likeness import read_likes

try:
    from loguru import logger
    from nemo_curator.stages.base import ProcessingStage
    from nemo_curator.tasks import ImageBatch, ImageObject
except ImportError as error:
    raise ImportError(
        f"{error}; aesthetic_curate.nemo needs NeMo Curator: pip install 'aesthetic-triton[nemo]'"
    ) from error

DEFAULT_URL = "localhost:8001"
SOURCES = ("auto", "image", "embedding")
ON_ERROR = ("drop", "keep", "raise")
ERROR_KEY = "aesthetic_error"  # in the metadata of an image without a score


@dataclass
class TritonAestheticStage(ProcessingStage[ImageBatch, ImageBatch]):  # type: ignore[misc]
    """Scores images, and keeps those whose score is at least `score_threshold`, in their order.

    Sets `aesthetic_score`, and `embedding` (float32 (768,), unit length) where the image was
    scored. The first fields are those of ImageAestheticFilterStage.

    Args:
        model_dir: accepted, and unneeded: the server has the weights.
        num_gpus_per_worker: accepted, and unneeded: the server has the GPU, the stage a CPU core.
        model_inference_batch_size: images of one worker on their way to each server.
        score_threshold: the lowest score that is kept. The scale is that of the head, about 1 to
            10; NeMo's default of 0.5 keeps nearly all.
        verbose: log every image that is filtered out.
        url: one server, or several that serve the same model.
        heads: heads by name, or "all". The default head's score, or else that of the first one
            asked for, is `aesthetic_score`; those of the others go into `metadata`, by output name.
        like: files of aesthetic embeddings: the cosine with each goes into `metadata`, as
            `like_STEM`. Every worker reads them.
        source: what is scored. "embedding": `embedding`, as ImageEmbeddingStage sets it. "image":
            `image_data` (H, W, 3), uint8 RGB of any size, else the file at `image_path`. "auto":
            the embedding where there is one, else the image.
        normalize: embeddings may have any length; without it they must have unit length.
        on_error: what becomes of an image that cannot be scored. "drop": it goes, and the log says
            why. "keep": it stays, with `aesthetic_score` None and the reason in
            `metadata["aesthetic_error"]`. "raise": the stage raises. Each is counted in the stage's
            custom metric `unscored_images`.
        timeout_s: how long one request may take.
        retry_s: how long servers that are away are waited for; then the stage raises
            UnavailableError, and the executor decides.
    """

    model_dir: str | None = None
    num_gpus_per_worker: float = 0.25
    model_inference_batch_size: int = 32
    score_threshold: float = 0.5
    verbose: bool = False
    name: str = "image_aesthetic_filter"
    url: str | Sequence[str] = DEFAULT_URL
    heads: str | Sequence[str] | None = None
    like: Sequence[str] = ()
    source: Literal["auto", "image", "embedding"] = "auto"
    normalize: bool = False
    on_error: Literal["drop", "keep", "raise"] = "drop"
    timeout_s: float = DEFAULT_TIMEOUT_S
    retry_s: float = DEFAULT_PATIENCE_S

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise InputError(f"source must be one of {', '.join(SOURCES)}, got {self.source!r}")
        if self.on_error not in ON_ERROR:
            raise InputError(
                f"on_error must be one of {', '.join(ON_ERROR)}, got {self.on_error!r}"
            )
        if self.model_inference_batch_size < 1:
            raise InputError(
                "model_inference_batch_size must be 1 or more, "
                f"got {self.model_inference_batch_size}"
            )
        self._scorer: BatchScorer | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_scorer": None}  # connections stay where they were opened

    def inputs(self) -> tuple[list[str], list[str]]:
        return ["data"], []

    def outputs(self) -> tuple[list[str], list[str]]:
        return ["data"], ["embedding", "aesthetic_score"]

    def setup(self, _worker_metadata: object = None) -> None:
        """Connect. Raises InputError for a head that is not served."""
        self.teardown()
        self._scorer = BatchScorer(
            self.url,
            heads=self.heads,
            likes=read_likes(self.like),
            in_flight=self.model_inference_batch_size,
            timeout_s=self.timeout_s,
            retry_s=self.retry_s,
        )
        if self.verbose:
            heads = ", ".join(head.name for head in self._scorer.heads)
            logger.info(f"Scoring by {heads} at {self.url}")

    def teardown(self) -> None:
        """Disconnect."""
        if self._scorer is not None:
            self._scorer.close()
        self._scorer = None

    def process(self, task: ImageBatch) -> ImageBatch:
        """Score a batch's images in place; a new batch of those that are kept."""
        results = self._score(task.data)
        kept = [
            image
            for image, result in zip(task.data, results, strict=True)
            if self._is_kept(image, result)
        ]
        unscored = sum(not result.ok for result in results)
        self._count("unscored_images", unscored)
        self._count("kept_images", len(kept))
        if self.verbose:
            logger.info(
                f"Aesthetic filtering: {len(kept)}/{len(task.data)} images passed, "
                f"{len(task.data) - len(kept)} filtered out, {unscored} could not be scored"
            )
        return ImageBatch(
            data=kept,
            dataset_name=task.dataset_name,
            _metadata=task._metadata,
            _stage_perf=task._stage_perf,
        )

    def _score(self, images: Sequence[ImageObject]) -> list[ScoreResult]:
        """One result an image, in order; nothing is asked where there are none."""
        if not images:
            return []
        if self._scorer is None:
            self.setup()
        assert self._scorer is not None
        stored = [self._has_embedding(image) for image in images]
        vectors = [image.embedding for image, own in zip(images, stored, strict=True) if own]
        pixels = [
            _pixels_or_path(image) for image, own in zip(images, stored, strict=True) if not own
        ]
        by_vector = iter(self._scorer.embeddings(vectors, normalize=self.normalize))
        by_pixels = iter(self._scorer.images(pixels, embedding=True))
        return [next(by_vector) if own else next(by_pixels) for own in stored]

    def _has_embedding(self, image: ImageObject) -> bool:
        return self.source == "embedding" or (self.source == "auto" and image.embedding is not None)

    def _is_kept(self, image: ImageObject, result: ScoreResult) -> bool:
        """Write a result into its image, and judge it."""
        if result.error is not None:
            return self._is_kept_unscored(image, result.error)
        if result.embedding is not None:
            image.embedding = np.array(result.embedding, np.float32)
        image.aesthetic_score = result.score
        # A new dict: images of a batch may share one.
        image.metadata = {**image.metadata, **self._further_scores(result)}
        if image.aesthetic_score >= self.score_threshold:
            return True
        if self.verbose:
            logger.info(
                f"{_described(image)} has aesthetic score {image.aesthetic_score:.3f} below "
                f"threshold {self.score_threshold}, filtered out."
            )
        return False

    def _further_scores(self, result: ScoreResult) -> dict[str, float]:
        """Scores by output name, without the one that is `aesthetic_score`."""
        assert self._scorer is not None
        heads = self._scorer.heads
        first = DEFAULT_HEAD if DEFAULT_HEAD in heads else heads[0]
        return {head.output: result.scores[head.name] for head in heads if head != first}

    def _is_kept_unscored(self, image: ImageObject, error: AestheticError) -> bool:
        # What is not about this image is the server's failure: it would take all images with it.
        if self.on_error == "raise" or not isinstance(error, InputError):
            raise error
        # Without the position in a request, which says nothing to who reads the log.
        reason = error.message
        image.aesthetic_score = None
        image.metadata = {**image.metadata, ERROR_KEY: reason}
        keeps = self.on_error == "keep"
        logger.warning(
            f"{_described(image)} cannot be scored, {'kept' if keeps else 'dropped'}: {reason}"
        )
        return keeps

    def _count(self, metric: str, images: int) -> None:
        """Add to a metric of this call, which may hold several batches."""
        counted = getattr(self, "_custom_metrics", None) or {}
        self._log_metric(metric, counted.get(metric, 0) + images)


def _pixels_or_path(image: ImageObject) -> ImageSource:
    if image.image_data is not None:
        return image.image_data  # type: ignore[no-any-return]
    return image.image_path or b""  # no bytes: an error that says so


def _described(image: ImageObject) -> str:
    return f"Image {image.image_id} (path: {image.image_path})"
