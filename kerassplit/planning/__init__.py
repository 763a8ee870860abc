"""From a model and its devices to a plan: what the planner's plain numbers mean for a Keras model."""
