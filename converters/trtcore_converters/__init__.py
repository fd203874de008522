"""The built-in ATen converters."""
