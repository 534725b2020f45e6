"""The model families in PyTorch: one package each, found through `embernet.families`."""
