"""Data sets in, scores and filtered data sets out."""
