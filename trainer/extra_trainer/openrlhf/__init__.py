"""All that touches OpenRLHF: the classes that extend its own, and what is replaced in it."""
