"""Training a part of a model: features cached, tails fine-tuned."""
