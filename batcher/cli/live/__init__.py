"""What `batcher top` consists of: `client` reads events, `state` keeps them, `screen` draws, `keys` listens."""
