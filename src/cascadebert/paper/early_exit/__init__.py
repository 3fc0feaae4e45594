"""The baselines of the paper: early exit inside one encoder, and truncated encoders."""
