"""Training data: what a model is shown and asked."""
