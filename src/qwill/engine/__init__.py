"""Generation: sampler, batched decoding over the key/value cache, chat. May import base, text, model, data."""
