"""The engines of the generation service, and the interface that they share."""
