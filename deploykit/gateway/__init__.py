"""The OpenAI gateway: HTTP as the `openai` package speaks it in front of Triton, in a process of its own."""
