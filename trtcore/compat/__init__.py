"""Ways to use converters that were written for another frontend; nothing in trtcore itself depends on them."""
