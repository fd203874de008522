"""What every TensorRT flavour is to the compiler; the flavours themselves are packs."""
