"""Training: networks from scratch, fine-tuning, and heads on extracted features."""
