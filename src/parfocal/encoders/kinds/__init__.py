"""One file for each kind of tile encoder; every file holds one `EncoderKind`, and none imports torch at its head."""
