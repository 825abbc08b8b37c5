"""TensorRT as its real bindings declare it: classes that check every call against the signatures.

`dump` runs in a process of its own, where stand-ins for NVIDIA's libraries let the bindings be
imported. Their docstrings carry full signatures with types; nothing of TensorRT runs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_LIBRARIES = ("libnvinfer.so", "libnvinfer_plugin.so", "libnvonnxparser.so")
_SYMBOLS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL"),
    *("getBuilderPluginRegistry", "getNvOnnxParserVersion", "getPluginRegistry"),
    *("getBuilderSafePluginRegistry", "initLibNvInferPlugins"),
)
_DUMP = """
import ctypes, json, sys
for library in sys.argv[1:]:
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
import tensorrt_bindings as trt
classes = {}
for name in dir(trt):
    kind = getattr(trt, name)
    if isinstance(kind, type) and kind.__module__.startswith("tensorrt"):
        members = {}
        for member in dir(kind):
            if member.startswith("__") and member != "__init__":
                continue
            value = getattr(kind, member)
            members[member] = (value.__doc__ or "") if callable(value) else None
        classes[name] = {
            "members": members,
            "values": list(getattr(kind, "__members__", {})),
            "bases": [base.__name__ for base in kind.__mro__[1:]],
        }
print(json.dumps({"version": trt.__version__, "classes": classes}))
"""


def dump(compile_c: Callable[..., Path], major: int, folder: Path | None = None) -> dict[str, Any]:
    """Every class of the bindings with its members' docstrings; `folder` may hold others."""
    source = "\n".join(f"void *{name}(void) {{ return 0; }}" for name in _SYMBOLS)
    stubs = [str(compile_c(f"{library}.{major}", source)) for library in _LIBRARIES]
    environment = {**os.environ, "PYTHONPATH": str(folder or "")}
    done = subprocess.run(
        [sys.executable, "-c", _DUMP, *stubs], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class Signatures:
    """The calls made are in `calls`: "Builder.create_network" and so on."""

    def __init__(self, dumped: dict[str, Any]) -> None:
        self.classes = dumped["classes"]
        self.version = dumped["version"]
        self.calls: list[str] = []

    def module(self) -> SimpleNamespace:
        """What stands for `import tensorrt`."""
        made = {name: self._class(name) for name in self.classes}
        made["ILogger"].Severity = self._enum("ILogger.Severity", ["INTERNAL_ERROR", "ERROR"])
        return SimpleNamespace(__version__=self.version, **made)

    def _class(self, name: str) -> Any:
        if values := self.classes[name]["values"]:
            return self._enum(name, values)
        signatures = self

        class Real:
            def __init__(self, *args: Any, **options: Any) -> None:
                signatures.check(name, "__init__", args, options)

            def __getattr__(self, member: str) -> Any:
                return signatures.member(name, member)

            def __setattr__(self, member: str, value: Any) -> None:
                if type(self) is Real:
                    signatures.member(name, member)
                    signatures.calls.append(f"{name}.{member} =")
                else:
                    object.__setattr__(self, member, value)

        Real.__name__ = name
        return Real

    def _enum(self, name: str, values: list[str]) -> Any:
        return type(name, (), {value: index for index, value in enumerate(values)})

    def member(self, name: str, member: str) -> Any:
        members = self.classes[name]["members"]
        if member not in members:
            raise AttributeError(f"TensorRT {self.version}: {name} has no {member}")
        if members[member] is None:
            return 0  # a property, a number wherever the builder reads one
        return lambda *args, **options: self.check(name, member, args, options)

    def check(self, name: str, member: str, args: Any, options: Any) -> Any:
        """Raises TypeError for arguments that no overload takes; else something of its type."""
        self.calls.append(f"{name}.{member}")
        overloads = self.parameters(name, member)
        for parameters, result in overloads:
            names = [parameter for parameter, _ in parameters]
            needed = [parameter for parameter, default in parameters[len(args) :] if not default]
            if len(args) <= len(names) and set(needed) <= set(options) <= set(names[len(args) :]):
                return self._result(result)
        raise TypeError(f"{name}.{member} takes {overloads}, not {args} {options}")

    def parameters(self, name: str, member: str) -> list[tuple[list[tuple[str, bool]], str]]:
        """Each overload: its parameters without self, whether they have a default; its result."""
        text = self.classes[name]["members"][member]
        found = []
        for match in re.finditer(rf"{member}\((self: [^\n]*)\) -> ([^\n]+)", text):
            parts = re.split(r", (?=\w+: )", match[1])
            parameters = [(part.partition(":")[0], " = " in part) for part in parts[1:]]
            found.append((parameters, match[2].strip()))
        assert found, f"no signature of {name}.{member} in {text!r}"
        return found

    def _result(self, declared: str) -> Any:
        kind = declared.rsplit(".", 1)[-1]
        if kind == "IHostMemory":
            return b"serialized"
        if kind in self.classes:
            made = self._class(kind)
            return made.__new__(made)  # its __init__ is TensorRT's own affair
        return {"bool": True, "int": 0, "None": None}[kind]
