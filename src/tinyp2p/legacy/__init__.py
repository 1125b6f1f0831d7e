"""The networks of 2004: TinyP2P and MoleSter, spoken both ways. Loaded only where `share` is told to (docs/legacy.md)."""
