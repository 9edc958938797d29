"""From a network to answers: devices, export, sessions, and the loop that feeds them."""
