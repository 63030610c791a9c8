"""The definition of every op in plain PyTorch, one file per op: any device, any dtype, odd
shapes.
"""
