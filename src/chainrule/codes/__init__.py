"""The table of codes: command-line name -> dotted name of the class. Imports happen when one is asked for."""

CODES = {
    "pca": "chainrule.codes.pca:PCA",
    "autoencoder": "chainrule.codes.autoencoder:Autoencoder",
    "deep-autoencoder": "chainrule.codes.deep_autoencoder:DeepAutoencoder",
    "stacked-autoencoder": "chainrule.codes.stacked_autoencoder:StackedAutoencoder",
    "rbm": "chainrule.codes.rbm:RBM",
    "predictive": "chainrule.codes.predictive:PredictiveSparseDecomposition",
    "sparse-coding": "chainrule.codes.sparse_coding:SparseCoding",
    "sparse-autoencoder": "chainrule.codes.sparse_autoencoder:SparseAutoencoder",
    "whitening": "chainrule.codes.whitening:Whitening",
    "olshausen-filter": "chainrule.codes.olshausen:OlshausenFilter",
    "contrast": "chainrule.codes.contrast:ContrastNormalization",
    "pooled": "chainrule.codes.pooled:PooledCode",
    "patches": "chainrule.codes.patches:Patches",
}
