"""The verbs: they know the contracts, never a model. One file a verb; `chainrule` exports them."""
