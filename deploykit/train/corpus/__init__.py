"""From a data folder's files to batches of token ids: reading, cleaning, storing, batching, augmenting."""
