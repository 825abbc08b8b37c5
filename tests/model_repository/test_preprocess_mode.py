"""A `preprocess` in fast mode loads only where its config says which pixels it makes."""

from __future__ import annotations

import importlib.util
import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from repository_configs import SOURCE, config_of

from aesthetic_client import contract
from aesthetic_client._wire import provenance_from_config
from aesthetic_client.pixels import FAST_PREPROCESSING_ID, PREPROCESSING_ID


class Refused(Exception):
    """Stands for Triton's own."""


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    backend = ModuleType("triton_python_backend_utils")
    backend.TritonModelException = Refused  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, backend.__name__, backend)
    file = SOURCE / "preprocess" / "1" / "model.py"
    spec = importlib.util.spec_from_file_location("preprocess_model", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TritonPythonModel()


def arguments(**parameters: str) -> dict[str, str]:
    named = {
        key.replace("provenance_", "provenance."): {"string_value": value}
        for key, value in parameters.items()
    }
    return {"model_config": json.dumps({"parameters": named})}


def test_fast_states_its_own_pixels(model: Any) -> None:
    model.initialize(arguments(mode="fast", provenance_preprocessing=FAST_PREPROCESSING_ID))
    assert model.options.mode == "fast"


@pytest.mark.parametrize(
    "parameters",
    [
        {"mode": "fast"},
        {"mode": "fast", "provenance_preprocessing": PREPROCESSING_ID},
        {"mode": "exact", "provenance_preprocessing": FAST_PREPROCESSING_ID},
    ],
    ids=["unstated", "fast as exact", "exact as fast"],
)
def test_pixels_under_another_name_are_refused(model: Any, parameters: dict[str, str]) -> None:
    wanted = FAST_PREPROCESSING_ID if parameters["mode"] == "fast" else PREPROCESSING_ID
    with pytest.raises(Refused, match=f"provenance.preprocessing must be {wanted}, so that"):
        model.initialize(arguments(**parameters))


@pytest.mark.parametrize("unused", [None, "ImportError: no numba"])
def test_the_log_says_where_the_kernels_are_not_used(
    model: Any, unused: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    namespace = type(model).initialize.__globals__
    monkeypatch.setitem(namespace, "warm_up", lambda: unused)
    backend = namespace["pb_utils"]
    backend.Logger = SimpleNamespace(log_warn=said.append)
    model.initialize(arguments())
    assert [str(unused) in line for line in said] == ([True] if unused else [])


def test_configs_of_before_the_mode_are_exact(model: Any) -> None:
    model.initialize(arguments(max_pixels="9"))
    assert model.options.mode == "exact"


def test_clients_see_the_stated_pixels() -> None:
    parameters = config_of(contract.PREPROCESS).parameters
    config = {
        "parameters": {
            key: {"string_value": value.string_value} for key, value in parameters.items()
        }
    }
    assert provenance_from_config(config) == {"preprocessing": PREPROCESSING_ID}
