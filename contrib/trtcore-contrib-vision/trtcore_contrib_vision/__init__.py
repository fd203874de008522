"""torchvision's ops for trtcore."""
