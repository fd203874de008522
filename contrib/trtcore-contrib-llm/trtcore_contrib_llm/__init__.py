"""Language models on trtcore."""
