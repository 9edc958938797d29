"""Images of what networks learn and see: training curves, maps, filters."""
