"""The package's face: exports, a thin import, and two clients with one set of methods."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import aesthetic_client
from aesthetic_client import AsyncClient, Client, errors


def test_every_error_is_exported_and_drawn_in_the_tree() -> None:
    classes = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.AestheticError)
    }
    assert classes <= set(aesthetic_client.__all__)
    assert all(name in str(errors.__doc__) for name in classes)
    for name in aesthetic_client.__all__:
        assert hasattr(aesthetic_client, name)


def test_importing_the_client_loads_neither_pillow_nor_torch_nor_a_protocol() -> None:
    program = (
        "import sys, aesthetic_client; "
        "print([m for m in ('PIL', 'numba', 'torch', 'rich', 'grpc', 'gevent', 'aiohttp', "
        "'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_the_contract_needs_the_standard_library_only() -> None:
    folder = Path(aesthetic_client.__file__).parent
    for name in ("contract.py", "paths.py", "errors.py"):
        tree = ast.parse((folder / name).read_text())
        for node in ast.walk(tree):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [str(node.module)]
            assert all(module.partition(".")[0] in sys.stdlib_module_names for module in modules)


def test_the_kernels_are_for_those_that_prepare_many_images() -> None:
    """numba has no wheels in some places, where the rest must be installable."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert [name for name in extras if any("numba" in one for one in extras[name])] == ["kernels"]
    own = [one for name in extras for one in extras[name] if one.startswith("aesthetic-triton[")]
    assert sum("kernels" in one for one in own) == 2
    for name, others in (("serve", "pixels,kernels,text,cli"), ("curate", "pixels,kernels,cli")):
        assert f"aesthetic-triton[{others}]" in extras[name]


def public(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(value)
        for name, value in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


def test_both_clients_have_the_same_methods_and_parameters() -> None:
    blocking, awaited = public(Client), public(AsyncClient)
    assert set(blocking) == set(awaited) and len(blocking) >= 9
    for name, signature in blocking.items():
        ours, theirs = signature.parameters, awaited[name].parameters
        assert list(ours) == list(theirs), name
        for parameter in ours:
            assert ours[parameter].default == theirs[parameter].default, (name, parameter)
            assert ours[parameter].kind == theirs[parameter].kind, (name, parameter)


@pytest.mark.parametrize("settings", [{"timeout_s": 0}, {"retry_s": -1}, {"decode": "gpu"}])
def test_wrong_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(errors.InputError):
        Client("localhost:1", **settings)
