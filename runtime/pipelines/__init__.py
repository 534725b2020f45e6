"""Pipelines: how the graphs of each family are driven. `base` says what every pipeline offers."""
