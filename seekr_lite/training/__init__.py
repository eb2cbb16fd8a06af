"""One task is learned: the loop, its gradients, micro-batches, optimizers and state."""
