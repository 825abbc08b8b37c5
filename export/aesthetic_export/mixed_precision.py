"""What of an OpenVINO tower stays in fp32 while its matrix products run in bf16 or int8.

OpenVINO's bf16 mode puts everything into bf16, the residual stream too, to which 48 small sums are
added: eight bits round them away. As in the fp16 tower (half.py), the stream and its sums, every
LayerNorm, the first and the last steps stay in fp32 here, by OpenVINO's own mark
`DisablePrecisionConversion`, which its CPU plugin heeds and its files carry. It has no Python
interface, so it is written where it is read: into the file.

Largest drift over 23 photographs on the whole ViT-L/14 of random weights, default head: 0.022 in
bf16 everywhere, 0.008 with the marks; all heads, in the default head's points: 0.022 and 0.008.
On the stress tower (stress.py, beyond published ranges), 15 photographs, mean over the default
head: 0.043 and 0.024. The conversions that the marks add take about 1% of an int8 tower's time.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    import openvino

# By the names of openvino_graph.py; what belongs to a node is named after it.
_FLOAT32 = re.compile(
    r"(pixels/float|patches|ln_pre|stream|block\d+/(ln_[12]|stream_[12]|class_token)"
    r"|pooled|ln_post|projection|embedding)(/.*)?"
    r"|block\d+/(q|k|fc1)/scaled"  # of a LayerNorm's output, which is fp32 already
)
_MARK = {"name": "DisablePrecisionConversion", "version": "0", "value": "dynamic:f16"}


def keep_float32(model: openvino.Model) -> openvino.Model:
    """`model` with the marks, for compiling with INFERENCE_PRECISION_HINT bf16."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.serialize(model, path)
        tree = ElementTree.parse(path)
        for layer in tree.iterfind("layers/layer"):
            if layer.get("type") != "Const" and _FLOAT32.fullmatch(layer.get("name", "")):
                ElementTree.SubElement(_runtime_info(layer), "attribute", _MARK)
        tree.write(path, "utf-8")
        # Without a memory map: the file goes away.
        marked: openvino.Model = openvino.Core().read_model(path, config={"ENABLE_MMAP": "NO"})
    return marked


def _runtime_info(layer: ElementTree.Element) -> ElementTree.Element:
    found = layer.find("rt_info")
    if found is None:
        found = ElementTree.Element("rt_info")
        layer.insert(0 if layer.find("data") is None else 1, found)  # after `data`, where it is
    return found
