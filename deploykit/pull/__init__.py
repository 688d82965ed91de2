"""`pull`: a packaged model from an object store, every file checked."""
