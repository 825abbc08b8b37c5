"""Triton backends that this package brings along."""
