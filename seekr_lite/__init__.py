"""seekr-lite: continual learning of a quantised language model on one consumer GPU."""
