"""Encoder-decoders: a graph that reads the source, and one that writes the answer with a cache of both."""
