"""A developer's tool: an arm64 Linux in QEMU whose clock counts the instructions of a Cortex-A53.

Nothing here is a time of a board: the figures are counts, and what is derived from them is called an estimate.
"""
