"""Score the aesthetic quality of images against a Triton server.

from aesthetic_client import Client

with Client("localhost:8001") as client:
    print(client.score("photo.jpg").score)
"""

from aesthetic_client.async_client import AsyncClient
from aesthetic_client.client import Client
from aesthetic_client.contract import DEFAULT_HEAD, HEADS, Head
from aesthetic_client.errors import (
    AestheticError,
    DeadlineError,
    EmbeddingError,
    ImageError,
    InputError,
    NoAnswerError,
    NotServedError,
    ServerError,
    UnavailableError,
)
from aesthetic_client.pixels import PixelOptions, prepare_pixels
from aesthetic_client.results import Health, ScoreResult, TextResult

__all__ = [
    "DEFAULT_HEAD",
    "HEADS",
    "AestheticError",
    "AsyncClient",
    "Client",
    "DeadlineError",
    "EmbeddingError",
    "Head",
    "Health",
    "ImageError",
    "InputError",
    "NoAnswerError",
    "NotServedError",
    "PixelOptions",
    "ScoreResult",
    "ServerError",
    "TextResult",
    "UnavailableError",
    "prepare_pixels",
]
