"""The board that a model runs on: what it is, and what a run costs there."""
