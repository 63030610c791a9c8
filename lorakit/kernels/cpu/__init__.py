"""Ops for float32 on the CPU, compiled by numba and run on PyTorch's own threads.

Every op has a namesake in `kernels/reference/`, which defines it and serves what is not float32.
"""
