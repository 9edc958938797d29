"""Feature extraction and prediction: complete runs of networks over images."""
