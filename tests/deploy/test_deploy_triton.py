"""The container's flags, canary and metrics on a real Triton (2.51, the embedded one)."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aesthetic_container import canary
from aesthetic_container.flags import ADMIN_HEADER, TLS_FILES, triton_flags
from aesthetic_container.settings import Settings
from deploy_metrics import GPU_METRICS, used_metrics

from aesthetic_client import Client, contract
from aesthetic_client.pixels import PREPROCESSING_ID

KEY = "sesame"
# Later than 2.51: read in the sources of 2.73 (src/command_line_parser.cc), not run here.
NOT_IN_2_51 = {"--allow-client-shm", "--http-max-input-size"}


def name_of(flag: str) -> str:
    return flag.split("=", 1)[0]


@pytest.fixture(scope="module")
def tls_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", folder / "tls.key", "-out", folder / "tls.crt"]
    try:
        subprocess.run([*openssl, *names, *files], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return folder


def start(repository: Path, settings: Settings) -> Any:
    """The embedded server with the container's flags added, where this Triton knows them."""
    from aesthetic_serve import EmbeddedServer, launcher

    ours = [flag for flag in triton_flags(settings) if name_of(flag) not in NOT_IN_2_51]
    original = launcher.command

    def command(plan: Any) -> list[str]:
        own = original(plan)
        taken = {name_of(flag) for flag in own}
        return [*own, *(flag for flag in ours if name_of(flag) not in taken)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "command", command)
        # Its supervisor reads statistics, which are closed here.
        return EmbeddedServer(repository, supervise=False).start()


@pytest.fixture(scope="module")
def server(tiny_repository: Path) -> Iterator[Any]:
    running = start(tiny_repository, Settings(profile="default", admin_key=KEY))
    yield running
    running.stop()


def ask(url: str, data: bytes | None = None, key: str | None = None) -> int:
    headers = {ADMIN_HEADER: key} if key else {}
    request = urllib.request.Request(url, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def ports(server: Any) -> tuple[int, int]:
    http, metrics = urlsplit(server.http_url).port, urlsplit(server.metrics_url).port
    assert http and metrics
    return http, metrics


@pytest.mark.triton
def test_only_the_named_flags_are_unknown_to_2_51() -> None:
    from aesthetic_serve.preflight import locate_server

    wheel = locate_server()
    libraries = os.pathsep.join(map(str, wheel.libraries))
    done = subprocess.run(
        [wheel.binary, "--help"],
        env={**os.environ, "LD_LIBRARY_PATH": libraries},
        capture_output=True,
        text=True,
        timeout=60,
    )
    known = set(re.findall(r"^\s*(--[\w-]+)", done.stdout + done.stderr, re.MULTILINE))
    ours = {name_of(flag) for flag in triton_flags(Settings(tls_dir=Path("/tls")))}
    assert ours - known == NOT_IN_2_51


@pytest.mark.triton
@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("/v2/models/stats", None),
        ("/v2/repository/index", b"{}"),
        ("/v2/trace/setting", None),
        ("/v2/logging", None),
        ("/v2/systemsharedmemory/status", None),
    ],
)
def test_administration_needs_the_key(server: Any, path: str, data: bytes | None) -> None:
    url = server.http_url + path
    assert ask(url, data) == ask(url, data, "wrong") == 403
    assert ask(url, data, KEY) == 200


@pytest.mark.triton
def test_over_grpc_too(server: Any) -> None:
    import tritonclient.grpc as grpc
    from tritonclient.utils import InferenceServerException

    with grpc.InferenceServerClient(urlsplit(server.grpc_url).netloc) as client:
        with pytest.raises(InferenceServerException, match="restricted"):
            client.get_inference_statistics()
        header = {f"triton-grpc-protocol-{ADMIN_HEADER}": KEY}
        assert client.get_inference_statistics(headers=header).model_stats
        with pytest.raises(InferenceServerException):  # --model-control-mode=none, key or not
            client.load_model(contract.CLIP_IMAGE.name, headers=header)


@pytest.mark.triton
def test_callers_notice_nothing(server: Any, photographs: list[Path]) -> None:
    with Client(server.grpc_url) as client:
        assert client.score(photographs[0]).score
        assert client.provenance()["clip_image"]["preprocessing"] == PREPROCESSING_ID


@pytest.mark.triton
def test_every_metric_that_is_read_exists(server: Any, photographs: list[Path]) -> None:
    with Client(server.grpc_url) as client:
        client.score(photographs[0])
    with urllib.request.urlopen(server.metrics_url, timeout=10) as response:
        text = response.read().decode()
    real = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    read = used_metrics()
    assert len(read) > 12
    assert read - GPU_METRICS <= real
    assert all(name in GPU_METRICS for name in read if name.startswith("nv_gpu"))
    assert 'quantile="0.99"' in text  # what --metrics-config asks for


@pytest.mark.triton
def test_the_canary_scores(server: Any) -> None:
    assert "score is" in canary.check_health(*ports(server), timeout_s=20)


@pytest.mark.triton
def test_tls_is_what_the_flags_say(tiny_repository: Path, tls_dir: Path) -> None:
    import tritonclient.grpc as grpc
    from tritonclient.utils import InferenceServerException

    assert {path.name for path in tls_dir.iterdir()} == set(TLS_FILES.values())
    running = start(tiny_repository, Settings(profile="default", tls_dir=tls_dir))
    try:
        netloc = urlsplit(running.grpc_url).netloc
        root = str(tls_dir / "tls.crt")
        with grpc.InferenceServerClient(netloc, ssl=True, root_certificates=root) as client:
            assert client.is_server_ready(client_timeout=10)
        with (
            grpc.InferenceServerClient(netloc) as plain,
            pytest.raises(InferenceServerException),
        ):
            plain.is_server_ready(client_timeout=5)
    finally:
        running.stop()


@pytest.mark.triton
def test_a_dead_preprocess_is_found_though_triton_is_ready(tiny_repository: Path) -> None:
    from aesthetic_serve.stubs import children_of

    running = start(tiny_repository, Settings(profile="default"))
    try:
        for pid in children_of(running.pid):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)
        assert ask(f"{running.http_url}/v2/health/ready") == 200
        with pytest.raises(canary.UnhealthyError):
            canary.check_health(*ports(running), timeout_s=10)
    finally:
        running.stop(0)


class _Slow(BaseHTTPRequestHandler):
    """A Triton whose canary never comes back, while `scored` may go on counting."""

    scored = 0
    step = 0

    def do_GET(self) -> None:
        type(self).scored += self.step
        labels = f'model="{contract.AESTHETIC.name}",version="1"'
        text = f"nv_inference_request_success{{{labels}}} {self.scored}\n"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_POST(self) -> None:
        time.sleep(1.5)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.mark.parametrize("step", [0, 3])
def test_a_busy_server_is_healthy_and_a_stuck_one_is_not(step: int) -> None:
    handler = type("Handler", (_Slow,), {"step": step})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as fake:
        thread = threading.Thread(target=fake.serve_forever)
        thread.start()
        try:
            port = fake.server_address[1]
            if step:
                found = canary.check_health(port, port, timeout_s=0.5)
                assert found == "busy: 3 other images in 0.5 s"
            else:
                with pytest.raises(canary.UnhealthyError, match=r"no score within 0\.5 s"):
                    canary.check_health(port, port, timeout_s=0.5)
        finally:
            fake.shutdown()
            thread.join()


def test_no_server_at_all_is_unhealthy() -> None:
    with pytest.raises(canary.UnhealthyError):
        canary.check_health(1, 1, timeout_s=1)
