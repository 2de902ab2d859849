"""The table of chains: command-line name -> dotted name of the class. Imports happen when one is asked for."""

CHAINS = {
    "uniform": "chainrule.chains.uniform:Uniform",
    "gated-pixelcnn": "chainrule.chains.gated_pixelcnn:GatedPixelCNN",
    "char-lstm": "chainrule.chains.char_lstm:CharLSTM",
}
