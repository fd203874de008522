"""Backends: the TensorRT flavours, where their bindings come from, and what they can do."""
