"""What the blocking and the asyncio client share: everything but the waiting."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from aesthetic_client._address import parse_address
from aesthetic_client.contract import MAX_IMAGE_BATCH
from aesthetic_client.errors import AestheticError, ImageError, InputError
from aesthetic_client.images import Decode, Encoded, ImageSource, Prepared, load
from aesthetic_client.pixels import DEFAULT_OPTIONS, PixelOptions
from aesthetic_client.results import ScoreResult

DEFAULT_URL = "localhost:8001"
DEFAULT_TIMEOUT_S = 120.0  # a CPU scores about one image a second, and a queue may stand before it
DEFAULT_RETRY_S = 120.0  # a server that restarts is back within half a minute
DEFAULT_IN_FLIGHT = 16  # images; two full batches, so that the server never waits for the client

KINDS = (Encoded, Prepared)
Loaded = Encoded | Prepared | AestheticError
Group = tuple[int, list[ImageSource]]  # index of the first item, and the items


class BaseClient:
    """Settings of a client.

    Args:
        url: `host:port` or `grpc://` (8001), `grpcs://`, `http://` (8000), `https://` (443).
        decode: "server" sends files as they are; "client" prepares pixels here (the `pixels` extra,
            faster with `kernels`: see `aesthetic_client.pixels`) and sends them in batches, which
            moves the decoding off the server.
        timeout_s: the deadline of one request, its wait in the server's queue included.
        retry_s: how long an unavailable or restarting server is waited for; 0 never retries.
        headers: sent with every request, for proxies and gateways that want a token.
        options: limits and formats for images that are prepared here.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        decode: Decode = "server",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry_s: float = DEFAULT_RETRY_S,
        headers: Mapping[str, str] | None = None,
        options: PixelOptions = DEFAULT_OPTIONS,
    ) -> None:
        if timeout_s <= 0 or retry_s < 0:
            raise InputError("timeout_s must be above 0 and retry_s not below it")
        self.address = parse_address(url)
        self.timeout_s = timeout_s
        self.retry_s = retry_s
        self.options = options
        self.headers = dict(headers or {})
        self.decode = checked_decode(decode)
        self._open()

    def _open(self) -> None:
        """Prepare the transport of a subclass; nothing is sent yet."""


def checked_decode(decode: str) -> Decode:
    """The decode mode. Raises InputError for another word."""
    if decode == "server" or decode == "client":
        return decode  # type: ignore[return-value]  # mypy does not narrow str to Literal
    raise InputError(f'decode must be "server" or "client", got {decode!r}')


def group_size(decode: Decode, in_flight: int) -> int:
    """Images a request. Encoded ones go alone: a bad file fails no other, and Triton batches."""
    if in_flight < 1:
        raise InputError(f"in_flight must be 1 or more, got {in_flight}")
    return 1 if decode == "server" else min(MAX_IMAGE_BATCH, in_flight)


def load_group(
    sources: Sequence[ImageSource], decode: Decode, options: PixelOptions
) -> list[Loaded]:
    """Each source loaded, or the error that it ended in."""
    loaded: list[Loaded] = []
    for source in sources:
        try:
            loaded.append(load(source, decode, options))
        except AestheticError as error:
            loaded.append(error)
        except Exception as error:  # a caller's own object failed while it was read
            loaded.append(ImageError("unreadable", f"{type(error).__name__}: {error}"))
    return loaded


def batched(images: Iterable[ImageSource]) -> Group:
    """The images of one request. Raises InputError for more than it takes."""
    refuse_single(images, "score_batch")
    batch = list(images)
    if len(batch) > MAX_IMAGE_BATCH:
        raise InputError(
            f"score_batch takes at most {MAX_IMAGE_BATCH} images, got {len(batch)}; "
            "for more use score_many"
        )
    return 0, batch


def rows_by_kind(loaded: Sequence[Loaded]) -> list[list[int]]:
    """Rows that one request can carry: those of encoded images, and those of prepared ones."""
    kinds = ([k for k, item in enumerate(loaded) if isinstance(item, kind)] for kind in KINDS)
    return [rows for rows in kinds if rows]


def good_items(loaded: Sequence[Loaded]) -> list[Encoded | Prepared]:
    """What can be sent."""
    return [item for item in loaded if not isinstance(item, AestheticError)]


def merge(
    group: Group, loaded: Sequence[Loaded], scored: Iterable[ScoreResult]
) -> list[ScoreResult]:
    """Results in the group's order: the scored ones, and errors for what could not be loaded."""
    start, sources = group
    answers = iter(scored)
    results = []
    for index, (source, item) in enumerate(zip(sources, loaded, strict=True), start):
        failed = isinstance(item, AestheticError)
        result = ScoreResult(error=item) if failed else next(answers)  # type: ignore[arg-type]
        if result.error is not None:
            result = replace(result, error=located(result.error, f"images[{index}]"))
        results.append(result.of(source, index))
    return results


def located(error: AestheticError, position: str) -> AestheticError:
    """The same error, about one item."""
    about = copy.copy(error)
    about.position = position
    about.__cause__ = error.__cause__
    return about


class _Groups:
    """Items as they come, in groups of `size`; the caller does the waiting."""

    def __init__(self, size: int) -> None:
        self._size, self._start = size, 0
        self._items: list[ImageSource] = []

    def add(self, item: ImageSource) -> Iterator[Group]:
        """The group that this item fills, if it fills one."""
        self._items.append(item)
        if len(self._items) == self._size:
            yield from self.rest()

    def rest(self) -> Iterator[Group]:
        """What has come since the last group, if anything has."""
        if self._items:
            group = (self._start, self._items)
            self._start, self._items = self._start + len(self._items), []
            yield group


def grouped(images: Iterable[ImageSource], size: int) -> Iterator[Group]:
    """Groups of `size`. An error of the iterable itself comes after the items before it."""
    groups = _Groups(size)
    try:
        for image in images:
            yield from groups.add(image)
    except Exception:
        yield from groups.rest()
        raise
    yield from groups.rest()


async def grouped_async(
    images: Iterable[ImageSource] | AsyncIterable[ImageSource], size: int
) -> AsyncIterator[Group]:
    """`grouped`, of an iterable of either kind."""
    if not isinstance(images, AsyncIterable):
        for group in grouped(images, size):
            yield group
        return
    groups = _Groups(size)
    try:
        async for image in images:
            for group in groups.add(image):
                yield group
    except Exception:
        for group in groups.rest():
            yield group
        raise
    for group in groups.rest():
        yield group


def refuse_single(images: object, method: str) -> None:
    """Raises InputError for a lone image where many are expected: its bytes would be iterated."""
    if isinstance(images, str | bytes | bytearray | memoryview) or hasattr(images, "__fspath__"):
        raise InputError(f"{method} takes an iterable of images; for a single one use score")
