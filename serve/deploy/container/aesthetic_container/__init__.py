"""What runs in the serving container before and beside tritonserver."""
