"""Triton's `openvino` backend over the `openvino` wheel, for servers without the C++ one.

`model.py` is what Triton loads; it only unpacks, calls and packs. It reads the same `config.pbtxt`
as the C++ backend (github.com/triton-inference-server/openvino_backend), with these differences:

- Without `HINT_BF16` it computes in fp32. The C++ backend leaves the choice to OpenVINO, which
  takes bfloat16 where the CPU has it.
- Any batch up to `max_batch_size` is run as it is. The C++ backend gives the model a fixed batch of
  `max_batch_size`, and refuses others or, with `ENABLE_BATCH_PADDING`, fills them up with zeros.
- One instance uses every core: it shares a batch out among OpenVINO's streams. The C++ backend runs
  an instance's batch on one stream.
"""

import sys

# OpenVINO's wheel reports every import to its maker. It has no switch, and does without the package
# that reports; so this package is imported before it.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
