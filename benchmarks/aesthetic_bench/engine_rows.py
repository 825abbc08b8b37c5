"""What is measured side by side: the ways users would write themselves, and this project's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aesthetic_client import contract

TOWER = contract.CLIP_IMAGE.name
BATCHES = (1, 4, 8)


@dataclass(frozen=True)
class Row:
    """One way of running the tower. `kind` is a loader of engine_kinds.py.

    `precision` names the matrix rate that limits it; `served` is of Triton in that profile.
    """

    name: str
    kind: str
    precision: str
    batches: tuple[int, ...] = BATCHES
    profile: contract.Profile | None = None
    class_token_only: bool = False  # computes the last block for the class token alone


REFERENCE = Row("torch eager, open_clip", "open_clip", "fp32")
WRITTEN_BY_USERS = (
    REFERENCE,
    Row("one file at a time: PIL, torch", "open_clip_files", "fp32", (1,)),
    Row("transformers", "transformers", "fp32"),
    Row("torch bf16, frozen (oneDNN)", "torch_bf16", "bf16"),
    Row("ONNX Runtime alone", "onnxruntime", "fp32"),
    Row("OpenVINO, fp32", "openvino_fp32", "fp32"),
)


def label(profile: contract.Profile) -> str:
    """What users call a profile; the default has no name of its own."""
    return profile.name or profile.precision


def profile_rows(repository: Path) -> tuple[list[Row], dict[str, str]]:
    """The rows of the profiles that serve on a CPU and are in the repository.

    Also why others of the contract are left out, by their name.
    """
    rows, missing = [], {}
    for profile in contract.PROFILES:
        if not _for_cpus(profile):
            continue
        name = f"profile {label(profile)}"
        folder = repository / TOWER
        if not (folder / profile.config_file).is_file() or not list(
            folder.glob(f"*/{profile.artifact}")
        ):
            missing[name] = (
                "not in this repository; `aesthetic export --precision "
                f"{profile.precision}` adds it"
            )
            continue
        # The OpenVINO artifacts are built so; the ONNX file computes every token.
        lean = profile.backend == "openvino"
        rows.append(Row(name, "profile", profile.precision, profile=profile, class_token_only=lean))
    return rows, missing


def _for_cpus(profile: contract.Profile) -> bool:
    backend: str = profile.backend
    return profile == contract.DEFAULT_PROFILE or backend == "openvino"
