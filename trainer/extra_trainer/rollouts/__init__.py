"""Groups of verified rollouts from the services, whatever is then done with them."""
