"""Files and named sets -> `Dataset`."""

from chainrule.data.dataset import Dataset

__all__ = ["Dataset"]
