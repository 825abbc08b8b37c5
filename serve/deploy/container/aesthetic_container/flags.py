"""tritonserver's command line: one list, each flag with its reason."""

from __future__ import annotations

import secrets

from aesthetic_container.settings import PLAIN_PROFILE, Settings

ADMIN_HEADER = "aesthetic-admin-key"  # over gRPC Triton puts `triton-grpc-protocol-` before it
# What an ordinary caller never needs. `model-config` stays open: provenance is read there.
ADMIN_PROTOCOLS = ("shared-memory", "model-repository", "statistics", "trace", "logging")
EXIT_TIMEOUT_S = 30  # for requests in flight; below Kubernetes' terminationGracePeriodSeconds
CONNECTION_AGE_MS = 300_000
CONNECTION_GRACE_MS = 60_000
QUANTILES = "0.5:0.05,0.95:0.01,0.99:0.001"  # quantile:allowed error
TLS_FILES = {
    "--grpc-server-cert": "tls.crt",
    "--grpc-server-key": "tls.key",
}
TLS_CLIENT_CA = "ca.crt"  # where it is there, clients must show a certificate that it signed


def triton_flags(settings: Settings) -> list[str]:
    """The flags for these settings, without the program's name."""
    # Without a key of the operator's the protocols are closed by one that nobody knows.
    key = settings.admin_key or secrets.token_hex(32)
    restricted = f"{','.join(ADMIN_PROTOCOLS)}:{ADMIN_HEADER}={key}"
    profile = [] if settings.profile == PLAIN_PROFILE else [settings.profile]
    return [
        f"--model-repository={settings.repository}",
        *(f"--model-config-name={name}" for name in profile),
        # The repository is code (`preprocess/1/model.py`): nobody may change it through the server.
        "--model-control-mode=none",
        "--disable-auto-complete-config",  # the configs are complete; what they say is what runs
        "--exit-on-error=true",
        "--strict-readiness=true",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        f"--grpc-restricted-protocol={restricted}",
        f"--http-restricted-api={restricted}",
        f"--http-max-input-size={settings.http_max_input_bytes}",
        f"--allow-client-shm={str(settings.allow_client_shm).lower()}",
        "--allow-sagemaker=false",
        "--allow-vertex-ai=false",
        # Connections end after five minutes, between calls, so that clients find new replicas.
        f"--grpc-max-connection-age={CONNECTION_AGE_MS}",
        f"--grpc-max-connection-age-grace={CONNECTION_GRACE_MS}",
        "--metrics-config=summary_latencies=true",
        f"--metrics-config=summary_quantiles={QUANTILES}",
        *_tls_flags(settings),
    ]


def _tls_flags(settings: Settings) -> list[str]:
    folder = settings.tls_dir
    if folder is None:
        return []
    flags = [f"{flag}={folder / name}" for flag, name in TLS_FILES.items()]
    if (folder / TLS_CLIENT_CA).is_file():
        return ["--grpc-use-ssl-mutual=true", *flags, f"--grpc-root-cert={folder / TLS_CLIENT_CA}"]
    return ["--grpc-use-ssl=true", *flags]
