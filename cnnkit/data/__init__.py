"""Image files, splits and preprocessing: from files to arrays, without torch."""
