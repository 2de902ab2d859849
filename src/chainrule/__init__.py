"""chainrule: learn p(x), or a good code for x, from your own files."""

__version__ = "0.1.0"
