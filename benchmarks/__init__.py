"""Speed and memory, as ratios against what a user would pick instead: `python -m benchmarks --help`."""
