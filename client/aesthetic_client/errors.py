"""Every error this package raises.

AestheticError
├── InputError (also ValueError)   the caller's fault; never retried
│   ├── ImageError                 an image that cannot be scored; `code` is stable
│   └── EmbeddingError             vectors that are not unit-length ViT-L/14 embeddings
├── ServerError                    the server answered, and refused
│   └── NotServedError             no such model or output there
└── NoAnswerError                  nothing usable came back; worth another try
    ├── UnavailableError (also ConnectionError)
    └── DeadlineError (also TimeoutError)
"""

from __future__ import annotations


class AestheticError(Exception):
    """Base of all errors. `position` says which item of the caller's input is meant, if one is."""

    def __init__(self, message: str, *, position: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.position = position

    def __str__(self) -> str:
        return f"{self.position}: {self.message}" if self.position else self.message


class InputError(AestheticError, ValueError):
    """The caller's input cannot be used as it is."""


class ImageError(InputError):
    """An image that cannot be scored. `code` is one of `aesthetic_client.pixels.IMAGE_CODES`."""

    def __init__(self, code: str, message: str, *, position: str | None = None) -> None:
        super().__init__(message, position=position)
        self.code = code

    def __str__(self) -> str:
        return f"{super().__str__()} [{self.code}]"

    def __reduce__(self) -> tuple[object, ...]:
        return (_image_error, (self.code, self.message, self.position))


class EmbeddingError(InputError):
    """Vectors that are not unit-length CLIP ViT-L/14 embeddings."""


class ServerError(AestheticError):
    """The server answered with an error that another try would not mend."""


class NotServedError(ServerError):
    """The server has no such model, or the model no such output."""


class NoAnswerError(AestheticError):
    """No usable answer came back."""


class UnavailableError(NoAnswerError, ConnectionError):
    """The server is down, starting, draining or lost the connection."""


class DeadlineError(NoAnswerError, TimeoutError):
    """The answer did not come within the deadline."""


def _image_error(code: str, message: str, position: str | None) -> ImageError:
    return ImageError(code, message, position=position)
