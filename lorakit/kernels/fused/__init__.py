"""Several ops as one autograd function, with a backward pass written by hand: less is kept for it
and less is written twice. What they compute is what autograd makes of the ops one after another;
with `dispatch.reference_only` callers take that way.
"""
