"""The container's settings. The only place that reads its environment variables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_PROFILE = "tensorrt"
PLAIN_PROFILE = "default"  # each model's config.pbtxt, without --model-config-name
PRECISION = "fp32"  # what it is called by its precision, as bf16 and int8 are
REPOSITORY = Path("/models")
# Triton's own default, stated. A JPEG of 50 megapixels, the most that `preprocess` takes, has half.
HTTP_MAX_INPUT_BYTES = 64 * 1024 * 1024
_WORD = re.compile(r"[A-Za-z0-9_-]+")
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class SettingsError(ValueError):
    """An environment variable that cannot be used; the message names it."""


@dataclass(frozen=True)
class Settings:
    """How to serve. `admin_key` None: nobody may use the administrators' protocols."""

    repository: Path = REPOSITORY
    profile: str = DEFAULT_PROFILE
    admin_key: str | None = None
    tls_dir: Path | None = None
    allow_client_shm: bool = False
    http_max_input_bytes: int = HTTP_MAX_INPUT_BYTES


def settings_from(environment: Mapping[str, str]) -> Settings:
    """Settings from AESTHETIC_* variables; an empty one counts as not set.

    Raises SettingsError.
    """

    def value(name: str) -> str | None:
        return environment.get(f"AESTHETIC_{name}", "").strip() or None

    tls = value("TLS_DIR")
    return Settings(
        repository=Path(value("REPOSITORY") or REPOSITORY),
        profile=_profile(value("PROFILE") or DEFAULT_PROFILE),
        admin_key=_word("ADMIN_KEY", key) if (key := value("ADMIN_KEY")) else None,
        tls_dir=Path(tls) if tls else None,
        allow_client_shm=_boolean("ALLOW_CLIENT_SHM", value("ALLOW_CLIENT_SHM") or "false"),
        http_max_input_bytes=_positive(
            "HTTP_MAX_INPUT_BYTES", value("HTTP_MAX_INPUT_BYTES") or str(HTTP_MAX_INPUT_BYTES)
        ),
    )


def _profile(text: str) -> str:
    return PLAIN_PROFILE if text == PRECISION else _word("PROFILE", text)


def _word(name: str, text: str) -> str:
    # Both become part of a flag in which `:`, `=` and `,` have a meaning.
    if not _WORD.fullmatch(text):
        raise SettingsError(f"AESTHETIC_{name} must be letters, digits, _ and - only")
    return text


def _boolean(name: str, text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise SettingsError(f"AESTHETIC_{name} is {text!r}; expected true or false")
    return _BOOLEANS[text.lower()]


def _positive(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise SettingsError(f"AESTHETIC_{name} is {text!r}; expected a number of bytes")
    return int(text)
