"""Metrics, costs, benchmarks, drift and the report."""
