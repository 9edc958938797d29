"""Checks of a dataset before training (broken files, duplicates, leaks), transfer advice and ablation."""
