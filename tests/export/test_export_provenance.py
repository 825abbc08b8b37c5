"""Where a built repository's numbers come from: the same words everywhere, as Triton reads them."""

from __future__ import annotations

import json

import onnx
import pytest
from exported_configs import served_provenance
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from aesthetic_client import _wire, contract
from aesthetic_client.errors import InputError
from aesthetic_client.pixels import PREPROCESSING_ID
from aesthetic_export.files import sha256_of
from aesthetic_export.heads import seeded_heads
from aesthetic_export.provenance import config_with_provenance
from aesthetic_export.repository import build_repository


@pytest.mark.parametrize("model", ["clip_image", "aesthetic_heads"])
def test_provenance_is_the_same_beside_the_artifact_in_it_and_in_the_config(tiny_repository, model):
    folder = tiny_repository / model
    written = json.loads((folder / "1" / "provenance.json").read_text())
    assert written["model"] == model
    assert written["weights"] == contract.SEEDED_WEIGHTS
    assert written["seed"] == 0
    assert (written["precision"], written["opset"]) == ("fp32", 18)
    assert {"torch", "onnx", "onnxruntime", "open_clip", "aesthetic_triton"} <= set(
        written["versions"]
    )
    artifacts = [*(folder / "1").glob("model.onnx*"), *(folder / "1").glob("heads.safetensors")]
    assert written["artifact_sha256"] == {path.name: sha256_of(path) for path in artifacts}
    assert written["parity"]["passed"] is True
    assert written["parity"]["max_score_difference"] < written["parity"]["tolerance"]["score"]

    served = served_provenance(folder)
    known = {name: value for name, value in written.items() if value is not None}
    assert set(served) == set(known)
    for name, value in known.items():
        assert served[name] == (value if isinstance(value, (str, dict, list)) else str(value))

    props = onnx.load(folder / "1" / "model.onnx", load_external_data=False).metadata_props
    inside = {item.key: item.value for item in props}
    assert inside["provenance.weights"] == contract.SEEDED_WEIGHTS
    assert inside["provenance.created"] == written["created"]


def test_the_tower_says_what_it_is_and_the_heads_say_which(tiny_repository):
    tower = served_provenance(tiny_repository / "clip_image")
    assert tower["activation"] == "quick_gelu"
    assert tower["preprocessing"] == PREPROCESSING_ID
    assert tower["source"] == "seeded:0"
    heads = served_provenance(tiny_repository / "aesthetic_heads")["heads"]
    assert [(row["name"], row["output"]) for row in heads] == [
        (head.name, head.output) for head in contract.HEADS
    ]
    assert {row["sha256"] for row in heads} == {None}  # no published file has a part in it
    config = text_format.Parse(
        (tiny_repository / "aesthetic_heads" / "config.pbtxt").read_text(), ModelConfig()
    )
    assert (
        _wire.heads_from_config(json_format.MessageToDict(config, preserving_proto_field_name=True))
        == contract.HEADS
    )


def test_published_heads_carry_their_hashes_and_licences(shared_data, tmp_path):
    from aesthetic_export.files import FileStore
    from aesthetic_export.heads import HEAD_SOURCES, published_heads

    heads = published_heads(FileStore(tmp_path / "cache", (shared_data / "heads",)))
    build_repository(tmp_path / "repository", heads=heads)
    served = served_provenance(tmp_path / "repository" / "aesthetic_heads")
    assert served["weights"] == "published"
    for row in served["heads"]:
        source = HEAD_SOURCES[row["name"]]
        assert (row["sha256"], row["licence"]) == (source.file.sha256, source.licence)
        assert row["source"] == source.file.url
    mixed = (seeded_heads(0)[0], *heads[1:])
    build_repository(tmp_path / "repository", heads=mixed)
    served = served_provenance(tmp_path / "repository" / "aesthetic_heads")
    assert served["weights"] == contract.SEEDED_WEIGHTS  # one seeded head makes all of it seeded


def test_awkward_text_survives_the_config():
    awkward = {
        "source": 'a "b" \\ \n\t é \x07 #',
        "weights_sha256": None,
        "nested": {"k": [1, '"']},
    }
    text = config_with_provenance('name: "m" # comment', awkward)
    assert text.startswith('name: "m" # comment\n')
    config = json_format.MessageToDict(
        text_format.Parse(text, ModelConfig()), preserving_proto_field_name=True
    )
    assert _wire.provenance_from_config(config) == {
        "source": awkward["source"],
        "nested": awkward["nested"],
    }


@pytest.mark.parametrize(
    "text", ['name: "m" colour: "red"', 'name: "m', 'parameters { key: "provenance.source" value']
)
def test_a_config_that_triton_would_refuse_is_refused(text):
    with pytest.raises(InputError, match="not a Triton model configuration"):
        config_with_provenance(text, {"source": "x"})
