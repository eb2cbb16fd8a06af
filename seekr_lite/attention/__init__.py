"""Looking inside attention: the tap, the divergence of two maps, the value of heads and their choice."""
