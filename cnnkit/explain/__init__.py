"""Explanations of networks as images: training curves, class activation maps, feature maps, filters and dreams."""
