"""What an exported model's config tells."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from aesthetic_client import _wire


def served_provenance(model_folder: Path) -> dict[str, object]:
    """The provenance as the client reads it from a running server's config."""
    config = text_format.Parse((model_folder / "config.pbtxt").read_text(), ModelConfig())
    as_dict = json_format.MessageToDict(config, preserving_proto_field_name=True)
    return _wire.provenance_from_config(as_dict)
