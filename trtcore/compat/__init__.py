"""Old names of what is a package of its own by now; they go away in trtcore 0.3."""
