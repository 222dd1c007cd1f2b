"""Where models come from: local, remote, scripted."""
