"""The Hugging Face hub, by its own library: its cache, its mirrors (HF_ENDPOINT), its tokens."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

from aesthetic_client.errors import InputError
from aesthetic_export.files import CONNECT_TIMEOUT_S, PinnedFile, UnreachableError, checked


def hub_file(repository: str, revision: str, file: PinnedFile) -> Path:
    """A file of a hub repository at a pinned revision, from the hub's cache or the net, hashed.

    Raises WrongFileError for other bytes, UnreachableError when the hub is silent and InputError
    when it has no such file.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    cached = try_to_load_from_cache(repository, file.name, revision=revision)
    if isinstance(cached, str):
        return checked(Path(cached), file.sha256)
    where = f"{repository} on {constants.ENDPOINT}"
    try:
        _knock(constants.ENDPOINT)
        found = hf_hub_download(
            repository,
            file.name,
            revision=revision,
            etag_timeout=CONNECT_TIMEOUT_S,
            endpoint=constants.ENDPOINT,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        # The library hides some refusals in "not in the cache either".
        status = next((code for one in (error, error.__cause__) if (code := _status(one))), None)
        if status is not None and status != 429 and status < 500:
            raise InputError(f"{where} answers {status} for {file.name}") from None
        reason = f"HTTP {status}" if status else getattr(error, "reason", None) or error
        raise UnreachableError(
            f"{file.name} is not on this machine and {where} cannot be reached ({reason}); "
            "download it elsewhere and name its folder with --weights-dir"
        ) from None
    return checked(Path(found), file.sha256)


def _knock(endpoint: str) -> None:
    """Raises OSError when nobody answers; the hub's library would try for half a minute."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(endpoint, method="HEAD"), timeout=CONNECT_TIMEOUT_S
        ):
            pass
    except urllib.error.HTTPError as error:  # an answer, whatever it says
        error.close()


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that an error of the hub's library carries, if it carries one."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
