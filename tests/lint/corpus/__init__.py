"""Flawed and sound recipes with their data: what the linter must find, and must not."""
