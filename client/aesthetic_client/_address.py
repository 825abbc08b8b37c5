"""Server addresses: `host:port` (gRPC), `grpc://`, `grpcs://`, `http://`, `https://`."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from aesthetic_client.errors import InputError

DEFAULT_PORTS = {"grpc": 8001, "grpcs": 8001, "http": 8000, "https": 443}


@dataclass(frozen=True)
class Address:
    """A server's protocol (grpc or http), whether TLS is on, and host:port."""

    protocol: str
    tls: bool
    netloc: str

    def __str__(self) -> str:
        return f"{self.protocol}{'s' if self.tls else ''}://{self.netloc}"


def parse_address(url: str) -> Address:
    """An address from a URL. Raises InputError where it is none."""
    parts = urlsplit(url if "://" in url else f"grpc://{url}")
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or port == -1:
        raise InputError(
            f"cannot use the server address {url!r}: expected host:port, grpc://host:8001, "
            "grpcs://, http://host:8000 or https://"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = parts.path.rstrip("/")
    if path and parts.scheme.startswith("grpc"):
        raise InputError(f"a gRPC address has no path: {url!r}")
    netloc = f"{host}:{port or DEFAULT_PORTS[parts.scheme]}{path}"
    return Address(parts.scheme[:4], parts.scheme.endswith("s"), netloc)
