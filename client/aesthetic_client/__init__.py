"""Score the aesthetic quality of images against a Triton server."""
