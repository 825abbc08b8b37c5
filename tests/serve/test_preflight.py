"""What is checked before a server is started, and the cures that are named."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import socket
import sys
from pathlib import Path

import pytest
from serve_models import MODEL_REPOSITORY

from aesthetic_serve import RepositoryError, SetupError, preflight
from aesthetic_serve.errors import PortError
from aesthetic_serve.ports import choose_ports
from aesthetic_serve.preflight import locate_server
from aesthetic_serve.repository import check_repository


def test_this_environment_is_fit_and_the_wheel_is_not_imported() -> None:
    wheel = locate_server()
    assert os.access(wheel.binary, os.X_OK)
    assert wheel.stub.parent.name == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert "pytriton" not in sys.modules


def test_numpy_2_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.3.1")
    with pytest.raises(SetupError, match=r"numpy 2\.3\.1 is installed.*pip install 'numpy<2'"):
        locate_server()


def test_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    with pytest.raises(SetupError, match=r"Linux x86-64, this is Linux arm64.*--url"):
        locate_server()


@pytest.mark.parametrize("missing", ["pytriton", "onnxruntime", "PIL"])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find(name)
    )
    with pytest.raises(SetupError, match=r"not installed; .*aesthetic-triton\[serve\]"):
        locate_server()


def test_a_python_without_a_stub_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Version:
        major, minor = 3, 14

    monkeypatch.setattr(preflight, "_libpython_folder", lambda: ())
    monkeypatch.setattr(sys, "version_info", Version())
    with pytest.raises(SetupError, match=r"Python 3\.14; use Python 3\.10 to 3\.12"):
        locate_server()


def test_a_missing_shared_libpython_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.sysconfig, "get_config_var", lambda name: None)
    monkeypatch.setattr(preflight.ctypes.util, "find_library", lambda name: None)
    monkeypatch.setattr(sys, "base_prefix", "/nowhere")
    with pytest.raises(SetupError, match=r"libpython3\.\d+\.so\.1\.0.*apt install"):
        locate_server()


def test_a_repository_that_is_not_there_names_the_command(tmp_path: Path) -> None:
    target = tmp_path / "models"
    with pytest.raises(RepositoryError, match=f"does not exist; .*export --repository {target}"):
        check_repository(target)
    target.mkdir()
    with pytest.raises(RepositoryError, match="holds no model"):
        check_repository(target)


def test_missing_artifacts_are_listed_with_the_command_that_makes_them(
    scoring_repository: Path, tmp_path: Path
) -> None:
    import shutil

    copy = shutil.copytree(scoring_repository, tmp_path / "copy")
    assert "aesthetic" in check_repository(copy)
    (copy / "clip_image" / "1" / "model.onnx").unlink()
    (copy / "aesthetic_heads" / "1" / "model.onnx").rename(copy / "aesthetic_heads" / "1" / "x")
    (copy / "aesthetic_pixels" / "1").rmdir()
    with pytest.raises(RepositoryError) as caught:
        check_repository(copy)
    for part in ("clip_image/1/model.onnx", "aesthetic_heads/1/model.onnx", "aesthetic_pixels/1/"):
        assert part in str(caught.value)
    assert "preprocess" not in str(caught.value)
    assert f"aesthetic export --repository {copy}" in str(caught.value)


def test_a_step_that_is_not_there_is_listed(scoring_repository: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(scoring_repository, tmp_path / "copy")
    shutil.rmtree(copy / "preprocess")
    with pytest.raises(RepositoryError, match=r"lacks preprocess/config\.pbtxt;"):
        check_repository(copy)


def test_the_repository_as_it_lies_in_the_source_is_not_servable() -> None:
    with pytest.raises(RepositoryError, match=r"clip_image/1/model\.onnx"):
        check_repository(MODEL_REPOSITORY)


def test_other_models_need_nothing_of_ours(adder_repository: Path) -> None:
    assert check_repository(adder_repository) == {"adder"}


def test_a_models_name_must_mean_nothing_to_a_shell(adder_repository: Path) -> None:
    (adder_repository / "adder").rename(adder_repository / "x; touch y")
    with pytest.raises(RepositoryError, match="x; touch y"):
        check_repository(adder_repository)


def test_a_busy_port_is_named_with_its_option() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(PortError, match=f"port {port} is in use; .*--http-port"):
            choose_ports(None, port, None)


def test_a_port_given_twice_is_refused() -> None:
    with pytest.raises(PortError, match=r"port 23456 is given twice; .*--metrics-port"):
        choose_ports(23456, None, 23456)


def test_free_ports_differ_and_stay_below_the_outgoing_range() -> None:
    ports = choose_ports(None, None, None)
    assert len({ports.grpc, ports.http, ports.metrics}) == 3
    assert max(ports.grpc, ports.http, ports.metrics) < 32768
