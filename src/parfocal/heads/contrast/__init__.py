"""Cross-scale contrast: a closed form for what only the pairing of magnifications within regions knows."""
