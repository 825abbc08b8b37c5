"""The parts of the benchmarks: drivers, measurements, figures and tables.

Not installed with the package; `benchmarks/serving.py` and `benchmarks/report.py` are the commands.
"""

import os
import sys

# As in the rooms that are measured: ONNX Runtime's and OpenVINO's own reports stay off.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
