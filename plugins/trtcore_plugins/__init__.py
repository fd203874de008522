"""Kernel plugins."""
