"""What a cascade is compared with: models cut short, and models that may answer after any layer."""
