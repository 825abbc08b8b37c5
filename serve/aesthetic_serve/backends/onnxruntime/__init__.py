"""Triton's `onnxruntime` backend over the `onnxruntime` wheel, for servers without the C++ one.

`model.py` is what Triton loads; it only unpacks, calls and packs. It reads the same `config.pbtxt`
as NVIDIA's C++ backend: the same parameter names, the same checks.
"""
