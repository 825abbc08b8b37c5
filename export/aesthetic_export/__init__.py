"""Weights in, certified ONNX models and a servable model repository out."""

import os
import sys

# Since 1.29 ONNX Runtime's Linux wheels report model names and usage to their maker; it reads this
# when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# OpenVINO's reports every import. It has no switch, and does without the package that reports.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
