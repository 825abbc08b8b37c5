"""A TensorRT plan from an ONNX file. Written for TensorRT 11; 10.x and TensorRT-RTX pass too.

The module of TensorRT's Python bindings is a parameter: `tensorrt` where plans are made, and
`tensorrt_rtx`, whose builder needs no GPU, where they are only compiled to see whether they do.
The graph's own types decide, so 10.x is told to keep them; 11 does nothing else.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from aesthetic_client.contract import Model, Plan
from aesthetic_client.errors import InputError

OPTIMIZATION_LEVEL = 3  # the builder's own default, stated; 4 and 5 take many times as long
# `tensorrt` is a package over `tensorrt_bindings`, which alone suffices beside the library itself.
MODULES = ("tensorrt", "tensorrt_bindings")
DOCUMENTED_WAY = (
    "run `aesthetic export --target tensorrt` inside the serving container, on the GPU that serves"
)

OnPhase = Callable[[str, int, int], None]  # a phase's name, its steps done, its steps in all


class PlanBuildError(RuntimeError):
    """TensorRT refuses the graph, or does not build it. The message has all of its reasons."""


@dataclass(frozen=True)
class Batches:
    """The optimisation profile: the smallest, the tuned and the largest batch."""

    opt: int
    max: int
    min: int = 1

    @classmethod
    def of(cls, plan: Plan, opt: int | None = None) -> Batches:
        """The contract's, tuned for `opt` where it is given. Raises InputError."""
        return cls(plan.opt_batch if opt is None else opt, plan.max_batch)

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise InputError(f"a plan needs 1 <= min <= opt <= max, not {self}")

    def shapes(self, model: Model) -> dict[str, tuple[tuple[int, ...], ...]]:
        """Each input's (min, opt, max) shape."""
        sizes = (self.min, self.opt, self.max)
        return {tensor.name: tuple((n, *tensor.dims) for n in sizes) for tensor in model.inputs}


def load_tensorrt() -> ModuleType:
    """TensorRT's Python bindings. Raises InputError that says what is missing, and the way."""
    reasons = []
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except ImportError as error:  # also where the library that the bindings wrap is not there
            reasons.append(str(error))
    raise InputError(f"TensorRT cannot be loaded ({reasons[-1]}): {DOCUMENTED_WAY}")


def plan_from_onnx(
    trt: Any,
    path: Path,
    *,
    model: Model,
    batches: Batches,
    timing_cache: Path | None = None,
    on_phase: OnPhase | None = None,
    configure: Callable[[Any], None] = lambda _: None,
) -> Any:
    """The serialized engine of the ONNX file at `path`, a buffer.

    `timing_cache` is read if it is there, and written; `configure` gets the builder's config last.
    Raises PlanBuildError with every reason that the parser or the builder gave.
    """
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    check_supported(trt, builder, logger, path)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        raise PlanBuildError(f"TensorRT cannot parse {path.name}: {_parser_errors(parser, logger)}")
    config = builder.create_builder_config()
    config.builder_optimization_level = OPTIMIZATION_LEVEL
    # On by default: it would round what the graph keeps in fp32 to 10 bits before multiplying.
    config.clear_flag(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    for name, (smallest, tuned, largest) in batches.shapes(model).items():
        profile.set_shape(name, smallest, tuned, largest)
    if config.add_optimization_profile(profile) < 0:
        raise PlanBuildError(f"TensorRT refuses the profile {batches}: {logger.reasons()}")
    monitor = make_monitor(trt, on_phase) if on_phase else None  # must outlive the build
    if monitor is not None:
        config.progress_monitor = monitor
    configure(config)
    with _timing_cache(config, timing_cache):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise PlanBuildError(f"TensorRT does not build {path.name}: {logger.reasons()}")
    return plan


def check_supported(trt: Any, builder: Any, logger: Any, path: Path) -> None:
    """Ask before parsing, with a parser of its own: one parser takes one model.

    Raises PlanBuildError with all of the parser's errors, by node.
    """
    network = builder.create_network(_network_flags(trt))  # must outlive the parser
    parser = trt.OnnxParser(network, logger)
    supports = getattr(parser, "supports_model_v2", None)  # early 10.x lack it; parsing tells too
    if supports is not None and not supports(path.read_bytes(), str(path)):
        errors = _parser_errors(parser, logger)
        raise PlanBuildError(f"TensorRT does not support {path.name}: {errors}")


def _network_flags(trt: Any) -> int:
    """10.x can also choose types by itself, and then does; it has to be told not to."""
    chooses = hasattr(trt.BuilderFlag, "FP16")
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if chooses else 0


def _parser_errors(parser: Any, logger: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    lines = [
        " ".join(f"{error.node_operator()} {error.node_name()}: {error.desc()}".split())
        for error in errors
    ]
    return "; ".join(dict.fromkeys(lines)) or str(logger.reasons())


@contextlib.contextmanager
def _timing_cache(config: Any, path: Path | None) -> Iterator[None]:
    """What earlier builds measured on this GPU; a file that does not fit it is begun anew."""
    if path is None:
        yield
        return
    known = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(known)
    if not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    yield
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(bytes(config.get_timing_cache().serialize()))
    partial.replace(path)


def make_logger(trt: Any) -> Any:
    severity = trt.ILogger.Severity
    serious = (severity.INTERNAL_ERROR, severity.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps errors for the exception; the rest is TensorRT's own business."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in serious:
                self.errors.append(msg)

        def reasons(self) -> str:
            return "; ".join(dict.fromkeys(self.errors)) or "it gives no reason"

    return Logger()


def make_monitor(trt: Any, on_phase: OnPhase) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Tells `on_phase`; TensorRT calls it from several threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            on_phase(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            on_phase(phase_name, min(step + 1, self.steps[phase_name] - 1), self.steps[phase_name])
            return True

        def phase_finish(self, phase_name: str) -> None:
            steps = self.steps.pop(phase_name)
            on_phase(phase_name, steps, steps)

    return Monitor()
