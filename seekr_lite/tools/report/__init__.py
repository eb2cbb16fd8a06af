"""Tables, cards and reports: what people read."""
