"""Fine-tune, retrieve, both or neither: for people without data yet.

`questions.py` what is asked, `rules.py` what the answers speak for, `advice.py` the verdict,
`collect.py` which examples to gather, `starting_recipe.py` the recipe to begin with.
"""
