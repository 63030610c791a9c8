"""Somebody else's code in a process of its own, where it can be stopped."""
