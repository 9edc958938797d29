"""Whole runs of a trained network over images."""
