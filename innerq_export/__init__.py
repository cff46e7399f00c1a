"""innerq-export: Llama-type models with an InnerQ KV cache, from checkpoint to running engine."""

__version__ = "0.1.0"
