"""What to run: the schema, its problems in words, the names of methods, the shipped recipes."""
