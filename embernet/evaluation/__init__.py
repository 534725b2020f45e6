"""How often a model is right, how sure that is, and which experts gave the answers."""
