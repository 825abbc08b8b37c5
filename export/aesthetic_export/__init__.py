"""Weights in, certified ONNX models and a servable model repository out."""
