"""The parts of the benchmarks: drivers, measurements, figures and tables.

Not installed with the package; `benchmarks/serving.py` and `benchmarks/report.py` are the commands.
"""
