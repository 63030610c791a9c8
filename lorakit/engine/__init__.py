"""The fast path of a transformer layer: modules that take the place of transformers' own, one by
one and only while the loop trains, where their code is known word for word.
"""
