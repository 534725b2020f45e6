"""Comparisons with other runtimes on this machine: docs/performance.md says what is compared and how.

One program per comparison. Each runs the contestants in turns, again and again, so that whatever else the machine does
meets all of them, and writes every single measurement to benchmarks/results/NAME.json.
"""
