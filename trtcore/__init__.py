"""trtcore: an extensible compiler from PyTorch to NVIDIA TensorRT."""
