"""Triton Inference Server on this machine, started, supervised and stopped."""
