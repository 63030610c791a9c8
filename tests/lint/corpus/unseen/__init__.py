"""Recipes and data sets written by a practitioner who had not read the linter's rules.

`make.cases()` gives them, `make.write(folder)` writes them out; nothing here knows a rule.
"""
