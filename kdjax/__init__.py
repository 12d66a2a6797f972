"""kdjax: knowledge transfer and distillation in JAX."""

__version__ = "0.1.0"
