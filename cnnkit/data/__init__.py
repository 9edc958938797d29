"""From files to arrays (no torch)."""
