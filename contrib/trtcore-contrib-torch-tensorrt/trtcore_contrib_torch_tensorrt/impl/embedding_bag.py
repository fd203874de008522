"""The family of `embedding_bag`, which is in `embedding`, too."""

from trtcore_contrib_torch_tensorrt.impl.embedding import embedding_bag

__all__ = ["embedding_bag"]
