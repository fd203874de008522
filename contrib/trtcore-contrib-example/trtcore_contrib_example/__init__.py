"""An example pack for trtcore."""
