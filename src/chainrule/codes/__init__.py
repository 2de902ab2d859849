"""The table of codes: command-line name -> dotted name of the class. Imports happen when one is asked for."""

CODES = {
    "pca": "chainrule.codes.pca:PCA",
}
