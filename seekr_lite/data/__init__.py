"""Tasks and examples, the readers that make them, and the batches they become."""
