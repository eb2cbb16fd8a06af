"""The built-in tiny base: a small trained Llama decoder, its tokenizer, and README.md, its model card."""
