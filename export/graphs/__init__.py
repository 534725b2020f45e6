"""Graph builders: one module per family, given a configuration and tensors, never a torch module."""
