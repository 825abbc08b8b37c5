"""Exports for the made-up GPU of fake_gpu.py, and what they leave."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from aesthetic_client import contract, plans
from aesthetic_export import cli
from aesthetic_export.files import sha256_of

FITTING = plans.Machine((plans.Gpu("Test GPU", "8.9"),), "11.4.0")


def run(*options: object) -> int:
    import argparse

    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.run(parser.parse_args([str(option) for option in options]))


def served_provenance(model_folder: Path, profile: contract.Profile) -> dict[str, str]:
    config = text_format.Parse((model_folder / profile.config_file).read_text(), ModelConfig())
    return {key: value.string_value for key, value in config.parameters.items()}


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
