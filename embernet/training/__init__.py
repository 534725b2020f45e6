"""Training of models from scratch: batches, the loop, and the recipe of the built-in `spark`."""
