"""Quality monitoring and Prometheus metrics."""
