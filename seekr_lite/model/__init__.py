"""The frozen base and what is trained on it: LoRA, soft prompts, snapshots, losses."""
