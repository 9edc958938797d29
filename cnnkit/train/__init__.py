"""From answers back to weights."""
