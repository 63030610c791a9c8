"""A backend for NVIDIA GPUs: Triton kernels, one file per op or pair of ops.

`ops.py` names what `dispatch.py` may call. Nothing here waits for the device. `import triton` in
these files is the library's: imports are absolute.
"""
