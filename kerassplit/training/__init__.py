"""Training on what was cut: cached features, fine-tuned tails, steps through the stages."""
