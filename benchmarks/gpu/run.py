"""How near to the GPU's limit can the image tower run? torch, ONNX Runtime, TensorRT side by side.

On a GPU machine: `python benchmarks/gpu/run.py --output result.json`. Needs Python and a CUDA
torch, nothing else; no network; ends within ten minutes. What is missing is named in the results.
Nothing else should run on the GPU meanwhile.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

BATCHES = (1, 8, 32, 128, 256)
SMOKE_BATCHES = (1, 3)
SECONDS, SMOKE_SECONDS = 3.0, 0.02
BUDGET_S = 540.0  # of the ten minutes; the rest is for starting and for a child's last step


def main(arguments: list[str] | None = None) -> int:
    """0; 1 where there is no GPU or no engine ran; the reason on stderr."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["--child"]:
        return _child(Path(words[1]), Path(words[2]))
    given = _parser().parse_args(words)
    import torch
    from gpu_bench import parent, table

    if not given.cpu_smoke and not torch.cuda.is_available():
        print(
            f"torch {torch.__version__} sees no CUDA device here; --cpu-smoke tries the script "
            "itself with a tiny tower",
            file=sys.stderr,
        )
        return 1
    options = parent.Options(
        smoke=given.cpu_smoke,
        batches=given.batches or (SMOKE_BATCHES if given.cpu_smoke else BATCHES),
        seconds=given.seconds or (SMOKE_SECONDS if given.cpu_smoke else SECONDS),
        budget_s=given.budget,
        engines=tuple(given.engine or parent.Options.engines),
        images=given.images,
        heads=given.heads,
        weights=given.weights,
        onnx=given.onnx,
        wheels=given.wheels,
    )
    record = parent.run(options, lambda text: print(text, file=sys.stderr, flush=True))
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    print("\n".join(table.lines(record)))
    print(f"written to {given.output}")
    measured = [result for result in record["engines"].values() if "batches" in result]
    return 0 if measured else 1


def _child(description: Path, answer: Path) -> int:
    from gpu_bench.jobs import Job, Result, run_job

    run_job(Job.read(description), Result(answer))
    return 0


def _parser() -> argparse.ArgumentParser:
    from gpu_bench.engines import ENGINES

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--images", type=Path, metavar="DIR", help="photographs (needs Pillow)")
    parser.add_argument(
        "--heads",
        type=Path,
        metavar="DIR",
        help="the published heads' files (default: random)",
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="CLIP's state dict (default: random ones)"
    )
    parser.add_argument(
        "--onnx",
        type=Path,
        metavar="FILE",
        help="model.fp16.onnx of `aesthetic export --precision fp16` (default: made here)",
    )
    parser.add_argument(
        "--wheels", type=Path, metavar="DIR", help="install these for the run, without a network"
    )
    parser.add_argument(
        "--engine", action="append", choices=list(ENGINES), help="this only; may be repeated"
    )
    parser.add_argument(
        "--batches", type=_batches, metavar="N,N", help=f"default: {','.join(map(str, BATCHES))}"
    )
    parser.add_argument("--seconds", type=_positive, metavar="S", help=f"a case: {SECONDS:g}")
    parser.add_argument(
        "--budget", type=_positive, default=BUDGET_S, metavar="S", help="in all: %(default)g"
    )
    parser.add_argument(
        "--cpu-smoke", action="store_true", help="a tiny tower on the CPU, to try the script"
    )
    return parser


def _batches(text: str) -> tuple[int, ...]:
    return tuple(int(_positive(word)) for word in text.split(","))


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


if __name__ == "__main__":
    sys.exit(main())
