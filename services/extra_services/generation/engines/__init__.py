"""The engines that generation can run on."""
