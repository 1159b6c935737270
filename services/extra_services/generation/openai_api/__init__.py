"""Generate as routes in the form of OpenAI's API, and sessions that record the tokens of conversations."""
