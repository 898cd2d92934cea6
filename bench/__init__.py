"""Benchmarks of Hala Engine. Run from the repository root; not installed."""
