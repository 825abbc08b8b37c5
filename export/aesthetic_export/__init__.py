"""Weights in, certified ONNX models and a servable model repository out."""

import os

# Since 1.29 ONNX Runtime's Linux wheels report model names and usage to their maker; it reads this
# when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
