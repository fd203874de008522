"""Hand-written Triton kernels, for what the generator cannot express or does more slowly.

Each is a `trtcore_plugins.triton_plugin`: a torch op, its fake implementation and a TensorRT plugin.
"""
