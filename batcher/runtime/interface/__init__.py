"""A loaded model's interface: inputs and outputs, the batch axis, padded axes, class labels.

`signature` validates a request in constant time. `row_axis` decides, when a model loads, which axes
are the rows, and `declared` whether what the executor declares can be. `padding_rules` are the configuration's words, `resolve_padding` checks them against
the model, and `padding` is the result. Everything here is a value; nothing executes.
"""
