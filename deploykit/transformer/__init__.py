"""The article's model: an encoder-decoder Transformer (Vaswani et al. 2017, arXiv 1706.03762) in PyTorch.

`attention` → `layers` → `model` are plain PyTorch; `pretrained` puts the model into Hugging Face's layout, and once it
is imported, transformers' Auto classes open what was saved.
"""
