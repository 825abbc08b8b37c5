"""Every error of the launcher; each message says how to mend it.

AestheticError
└── ServeError
    ├── SetupError        this machine or Python environment cannot run the server
    ├── RepositoryError   the model repository is missing or not complete
    ├── PortError         a port is taken
    ├── StartError        tritonserver ended, or was not ready in time
    └── GaveUpError       restarted too often
The messages of the last two end with the last lines of the server's log.
"""

from __future__ import annotations

from aesthetic_client.errors import AestheticError


class ServeError(AestheticError):
    """The server cannot be run."""


class SetupError(ServeError):
    """This machine or this Python environment cannot run the server."""


class RepositoryError(ServeError):
    """The model repository is missing or not complete."""


class PortError(ServeError):
    """A port is taken."""


class StartError(ServeError):
    """The server ended while starting, or was not ready in time."""


class GaveUpError(ServeError):
    """The server was restarted too often and is left stopped."""
