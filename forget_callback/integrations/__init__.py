"""How other people's trainers load the callback by their own plugins; each module needs its trainer installed."""
