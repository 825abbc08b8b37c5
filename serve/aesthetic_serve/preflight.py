"""Can this machine and this Python environment run the wheel's server? Asked before starting it."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import importlib.util
import platform
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from aesthetic_serve.errors import SetupError

INSTALL = "pip install 'aesthetic-triton[serve]'"
STUB = "triton_python_backend_stub"


@dataclass(frozen=True)
class Wheel:
    """Where the installed `nvidia-pytriton` keeps the server's parts."""

    binary: Path
    python_backend: Path
    stub: Path  # of the running Python version
    libraries: tuple[Path, ...]  # for LD_LIBRARY_PATH


def locate_server() -> Wheel:
    """The server's parts, ready to be started. Raises SetupError with the way to mend it."""
    _check_machine()
    _check_packages()
    _check_numpy()
    root = _package_folder("pytriton")
    server = root / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    wheel = Wheel(
        binary=server / "bin" / "tritonserver",
        python_backend=server / "backends" / "python",
        stub=server / "python_backend_stubs" / version / STUB,
        # Without the wheel's own libraries the server hangs for a minute and then fails to load.
        libraries=(root.parent / "nvidia_pytriton.libs", *_libpython_folder()),
    )
    if not wheel.stub.is_file():
        raise SetupError(
            f"nvidia-pytriton has no server part for Python {version}; use Python 3.10 to 3.12"
        )
    for part in (wheel.binary, wheel.python_backend, wheel.libraries[0]):
        if not part.exists():
            raise SetupError(
                f"the installed nvidia-pytriton lacks {part.relative_to(root.parent)}; "
                "reinstall it: pip install --force-reinstall --no-deps nvidia-pytriton==0.7.0"
            )
    return wheel


def _check_machine() -> None:
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        raise SetupError(
            f"the embedded server runs on Linux x86-64, this is {system} {machine}; use Triton's "
            "container on another machine and `--url`"
        )


def _check_packages() -> None:
    for module, package in (
        ("pytriton", "nvidia-pytriton"),
        ("onnxruntime", "onnxruntime"),
        ("PIL", "Pillow"),
    ):
        if importlib.util.find_spec(module) is None:
            raise SetupError(f"{package} is not installed; install it: {INSTALL}")


def _check_numpy() -> None:
    found = importlib.metadata.version("numpy")
    if int(found.split(".")[0]) >= 2:
        raise SetupError(
            f"numpy {found} is installed, but this server's Python process misreads images under "
            "numpy 2; install numpy 1 (Python 3.10 to 3.12): pip install 'numpy<2'"
        )


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)  # finds a top-level package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise SetupError(f"{name} is not installed; install it: {INSTALL}")
    return Path(next(iter(spec.submodule_search_locations)))


def _libpython_folder() -> tuple[Path, ...]:
    """The folder of this Python's shared library; none where the system's loader knows one."""
    short = f"python{sys.version_info.major}.{sys.version_info.minor}"
    name = f"lib{short}.so.1.0"
    for folder in (sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib"):
        if folder and Path(folder, name).is_file():
            return (Path(folder),)
    if ctypes.util.find_library(short):
        return ()
    raise SetupError(
        f"the server's Python process needs the shared library {name}, which this Python was built "
        f"without; install it (Debian, Ubuntu: apt install lib{short}) or use another Python"
    )
