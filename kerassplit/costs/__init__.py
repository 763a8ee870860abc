"""What the calls of a model cost: parameters, bytes, FLOPs and seconds."""
