"""Building blocks of ternary networks in PyTorch, used by every family."""
