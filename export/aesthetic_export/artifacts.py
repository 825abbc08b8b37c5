"""A model's artifacts: a profile's file, its weights where they lie outside, and its provenance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from aesthetic_client import contract
from aesthetic_client.contract import Profile
from aesthetic_client.errors import InputError
from aesthetic_export import folders, provenance

_ADAPTER = "model.py"  # of a Python model, beside the files that it loads
# What Triton's backends load where `default_model_filename` names nothing else.
_DEFAULT_FILES = {
    **dict.fromkeys(("onnxruntime", "onnxruntime_onnx"), contract.DEFAULT_PROFILE.artifact),
    **dict.fromkeys(("tensorrt", "tensorrt_plan"), contract.TENSORRT.artifact),
    "python": _ADAPTER,
}
_BY_FILE = {
    **{profile.artifact: profile for profile in contract.PROFILES},
    _ADAPTER: contract.DEFAULT_PROFILE,
}


def files_of(profile: Profile) -> tuple[str, ...]:
    """The names that a profile's artifact may have in a version folder."""
    beside = (contract.HEADS_DATA,) if profile is contract.DEFAULT_PROFILE else ()
    return (profile.artifact, profile.weights_file, *beside)


def keep_artifact(existing: Path, version: Path, profile: Profile) -> None:
    """Carry an earlier export's artifact over, with its provenance if it has any."""
    for name in files_of(profile):
        if (existing / name).is_file():
            folders.link_file(existing / name, version)
    if (known := provenance.read_provenance(existing, profile)) is not None:
        provenance.write_provenance(version, known, profile)


def drop_artifact(version: Path, profile: Profile) -> None:
    """Remove a profile's artifact and its provenance, as far as they are there."""
    for name in (*files_of(profile), profile.provenance_file):
        (version / name).unlink(missing_ok=True)


def leave_out_plan_config(model_folder: Path) -> None:
    """Without its plan a model's `tensorrt` config goes too: Triton then takes `config.pbtxt`.

    That is silent, so it is only for a plan that scores as the default profile does, an optional
    one; without its config the tower would be served in fp32 and nobody would know.
    """
    if not has_artifact(model_folder / "1", contract.TENSORRT):
        (model_folder / contract.TENSORRT.config_file).unlink(missing_ok=True)


def has_artifact(version: Path, profile: Profile) -> bool:
    return (version / profile.artifact).is_file()


def annotate(model_folder: Path) -> None:
    """Append to each config the provenance of what it serves, where there is one."""
    for config in (model_folder / "config.pbtxt", *sorted(model_folder.glob("configs/*.pbtxt"))):
        text = config.read_text("utf-8")
        served = _served_file(config)
        profile = _BY_FILE.get(served)
        if profile is None or not (model_folder / "1" / served).is_file():
            continue
        known: Mapping[str, object] | None = provenance.read_provenance(model_folder / "1", profile)
        if known is not None:
            config.write_text(provenance.config_with_provenance(text, known), "utf-8")


def _served_file(config: Path) -> str:
    """The file's name that a config makes Triton load, "" for models that have none."""
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    try:
        parsed = text_format.Parse(config.read_text("utf-8"), ModelConfig())
    except text_format.ParseError as error:
        raise InputError(f"{config.name} is not a Triton model configuration: {error}") from None
    name: str = parsed.default_model_filename
    return name or _DEFAULT_FILES.get(parsed.backend or parsed.platform, "")
