"""Heads beside the contract's: what they add to a model, and to the configs that name the outputs.

The hand-written configs name the contract's heads. Each further head is written after the last of
them, wherever that one stands: as an output, and in an ensemble's map of outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aesthetic_client import contract
from aesthetic_client.contract import AESTHETIC_HEADS, Head, Model
from aesthetic_client.errors import InputError
from aesthetic_export.heads import HeadWeights

PUBLISHED = len(contract.HEADS)
_LAST = contract.HEADS[-1].output


def served_head(name: str) -> Head:
    """A head by its name, with the output that carries its score."""
    known = {head.name: head for head in contract.HEADS}
    return known.get(name) or Head(name, contract.output_name(name))


def heads_model(names: Sequence[str]) -> Model:
    """`aesthetic_heads` with an output a head, in order."""
    return replace(AESTHETIC_HEADS, outputs=tuple(served_head(name).tensor for name in names))


def names_of(provenance: Mapping[str, Any] | None) -> list[str]:
    """The heads' names from the provenance of `aesthetic_heads`; [] where it is unknown."""
    return [str(row["name"]) for row in (provenance or {}).get("heads", ())]


def check_names(names: Sequence[str]) -> None:
    """Raises InputError for heads that do not begin with the contract's, or share an output."""
    expected = [head.name for head in contract.HEADS]
    if list(names[:PUBLISHED]) != expected:
        raise InputError(f"heads {list(names)}, the contract has {expected}")
    outputs = [served_head(name).output for name in names]
    for at, output in enumerate(outputs):
        if output in outputs[:at]:
            raise InputError(
                f"the heads {names[outputs.index(output)]} and {names[at]} would share the output "
                f"{output}; fit one of them with another --name"
            )


def check_heads(heads: Sequence[HeadWeights]) -> None:
    """check_names for heads with their weights."""
    check_names([head.source.name for head in heads])


def add_to_configs(model_folder: Path, names: Sequence[str]) -> None:
    """Write further heads into every config of a model that names the contract's last one.

    Raises InputError where the result is no config with these outputs.
    """
    outputs = [served_head(name).output for name in names]
    if not outputs:
        return
    for config in (model_folder / "config.pbtxt", *sorted(model_folder.glob("configs/*.pbtxt"))):
        text = config.read_text("utf-8")
        if f'"{_LAST}"' in text:
            config.write_text(_with_outputs(text, outputs), "utf-8")


def _with_outputs(text: str, outputs: Sequence[str]) -> str:
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    lines: list[str] = []
    for line in text.splitlines():
        if f'"{_LAST}"' not in line:
            lines.append(line)
            continue
        entry = line.rstrip().rstrip(",")
        # In [ ... ] entries stand between commas, the fields of a message beside each other.
        separator = "," if entry.lstrip().startswith("{") else ""
        entries = [entry, *(entry.replace(f'"{_LAST}"', f'"{output}"') for output in outputs)]
        lines += [f"{one}{separator}" for one in entries[:-1]]
        lines.append(entries[-1] + ("," if line.rstrip().endswith(",") else ""))
    result = "\n".join([*lines, ""])
    try:
        config = text_format.Parse(result, ModelConfig())
    except text_format.ParseError as error:
        raise InputError(f"heads cannot be added to this configuration: {error}") from None
    served = {output.name for output in config.output}
    steps = [step.output_map for step in config.ensemble_scheduling.step]
    mapped = {name for outputs_of in steps for name in outputs_of.values()}
    if not set(outputs) <= served or (steps and not set(outputs) <= mapped):
        raise InputError("heads cannot be added to this configuration: its outputs are not a list")
    return result
