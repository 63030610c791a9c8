"""What a recipe may not say although every single value is allowed: one file a section.

That is: options that cannot take effect, and options whose engine is not built yet.
"""
