"""The article's model: an encoder-decoder Transformer (Vaswani et al. 2017, arXiv 1706.03762) in PyTorch."""
