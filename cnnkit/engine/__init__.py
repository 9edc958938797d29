"""From a network to outputs: devices, export, sessions, and the loop that feeds them."""
