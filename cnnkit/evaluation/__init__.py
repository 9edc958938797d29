"""Evaluation, comparison and calibration of predictions (no torch)."""
