"""Arithmetic on saved adapters: read without a base model, combined from their factors, written."""
