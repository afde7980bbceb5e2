"""What `render` draws: what is kept of an episode, and the picture of it."""
