"""Training: networks from scratch, fine-tuning, heads on features."""
