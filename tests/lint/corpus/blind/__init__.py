"""Recipes with data, written without a look at any rule: some with one flaw, some sound."""
