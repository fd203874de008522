"""``torch.compile(backend="trtcore")``: the graphs that Dynamo hands over, their weights, and recompiles."""
