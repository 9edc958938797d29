"""Whether a set of images is fit for training: what is broken, what is there twice, and what gives the class away."""
