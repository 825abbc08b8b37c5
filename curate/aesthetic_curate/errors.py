"""Errors of the room. All are AestheticErrors: the command prints them as one sentence.

CurationError
├── NoSamplesError      (also InputError) nothing to do was found where the caller pointed
├── UnreadableError     (also InputError) an input file that cannot be read
├── MixedResultsError   (also InputError) results of different settings, or twice of one input
├── StoppedError        a run that was stopped, by its user or by a server that stays away
└── OutputError         the output cannot be written: a full disk, missing rights
"""

from __future__ import annotations

from aesthetic_client.errors import AestheticError, InputError


class CurationError(AestheticError):
    """Base of the room's errors."""


class NoSamplesError(CurationError, InputError):
    """Nothing to do was found where the caller pointed."""


class UnreadableError(CurationError, InputError):
    """An input that cannot be read, as a whole."""


class MixedResultsError(CurationError, InputError):
    """Results that do not belong together."""


class StoppedError(CurationError):
    """The run stopped before its end; what is done stays, and the same command goes on."""


class OutputError(CurationError):
    """The output cannot be written."""
