"""Reports on a classifier: one HTML page, a summary in Markdown, and test results for CI."""
