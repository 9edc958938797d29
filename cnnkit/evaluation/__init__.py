"""From predictions to numbers (no torch)."""
