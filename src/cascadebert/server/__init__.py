"""HTTP server: pooled batching, load-adaptive operating points, quality monitoring."""
