"""Several arms and seeds: trained, compared, written down as evidence."""
