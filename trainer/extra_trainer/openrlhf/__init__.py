"""Everything that touches OpenRLHF: classes that extend its own, its flags, and `replacements`."""
