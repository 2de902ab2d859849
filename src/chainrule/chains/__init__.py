"""The table of chains: command-line name -> dotted name of the class. Imports happen when one is asked for."""

CHAINS = {
    "uniform": "chainrule.chains.uniform:Uniform",
    "counting": "chainrule.chains.counting:ContextMixing",
    "fvbn": "chainrule.chains.fvbn:FVBN",
    "nade": "chainrule.chains.nade:NADE",
    "made": "chainrule.chains.made:MADE",
    "ride": "chainrule.chains.ride:RIDE",
    "row-lstm": "chainrule.chains.row_lstm:RowLSTM",
    "diagonal-bilstm": "chainrule.chains.diagonal_bilstm:DiagonalBiLSTM",
    "pixelcnn": "chainrule.chains.pixelcnn:PixelCNN",
    "gated-pixelcnn": "chainrule.chains.gated_pixelcnn:GatedPixelCNN",
    "pixelcnn-pp": "chainrule.chains.pixelcnn_pp:PixelCNNpp",
    "pixelsnail": "chainrule.chains.pixelsnail:PixelSNAIL",
    "image-transformer": "chainrule.chains.image_transformer:ImageTransformer",
    "char-lstm": "chainrule.chains.char_lstm:CharLSTM",
    "mlstm": "chainrule.chains.mlstm:MultiplicativeLSTM",
    "gpt": "chainrule.chains.gpt:GPT",
    "deep-attention": "chainrule.chains.deep_attention:DeepAttention",
    "sparse-transformer": "chainrule.chains.sparse_transformer:SparseTransformer",
    "transformer-xl": "chainrule.chains.transformer_xl:TransformerXL",
    "mixture": "chainrule.chains.mixture:Mixture",
}
