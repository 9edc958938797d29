"""Checks of a set of images before training (broken files, duplicates, leaks), transfer advice and ablation."""
